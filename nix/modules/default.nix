# services.aistack: a complete, private AI stack. One file per concern.
{
  imports = [
    ./options.nix
    ./services.nix
    ./service-assertions.nix
    ./secrets.nix
    ./command.nix
    ./postgresql.nix
    ./postgresql-server.nix
    ./redis.nix
    ./roles.nix
    ./nginx.nix
    ./qdrant.nix
    ./vectors.nix
    ./llama.nix
    ./open-webui.nix
    ./mindsdb.nix
    ./prometheus.nix
    ./alerts.nix
    ./grafana.nix
    ./tracing.nix
    ./backup.nix
  ];
}
