# The option tree of a host: exactly the upstream options that the project touches, with upstream's
# types and defaults; another name is an error, as on NixOS.
{
  imports = [
    ./acme.nix
    ./base.nix
    ./boot.nix
    ./environment.nix
    ./networking.nix
    ./nixpkgs.nix
    ./specialisation.nix
    ./oci-containers.nix
    ./system.nix
    ./systemd
    ./users.nix
    ./services/alertmanager.nix
    ./services/exporters.nix
    ./services/grafana.nix
    ./services/journald.nix
    ./services/llama-cpp.nix
    ./services/nginx
    ./services/open-webui.nix
    ./services/opentelemetry-collector.nix
    ./services/postgresql.nix
    ./services/postgresql-backup.nix
    ./services/prometheus.nix
    ./services/qdrant.nix
    ./services/redis.nix
    ./services/restic.nix
    ./services/tempo.nix
  ];
}
