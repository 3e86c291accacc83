# Machine 2 of 3 (10.0.0.2): documents, their database, and vectors for ingestion.
{
  imports = [ ./common.nix ];

  services.aistack = {
    roles = [
      "data"
      "aidb"
      "embeddings"
    ];

    # Nobody here asks another machine, but the others ask this one.
    machines = {
      enable = true;
      listenAddresses = [ "10.0.0.2" ];
    };

    postgresql.memory = 16384;
  };
}
