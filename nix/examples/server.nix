# A server with an NVIDIA card and a name in the DNS: a certificate by Let's Encrypt, open to the
# network, backed up every night.
{
  config,
  lib,
  pkgs,
  ...
}:
{
  services.aistack = {
    enable = true;
    # The models for a card with 24 GB; "h100" for one with 80 GB.
    models.profile = "gpu";

    nginx = {
      hostName = "ai.example.org";
      tls.mode = "acme";
      openFirewall = true;
    };

    # The embedding model on the card too: torch wants memory, and a card wants large batches.
    embeddings = {
      memoryHigh = "6G";
      memoryMax = "8G";
      settings.embeddings = {
        encoder = "torch";
        batch_tokens = 16384;
      };
    };

    postgresql.memory = 8192;

    # The dump of every night leaves the machine.
    backup.restic = [ "offsite" ];
  };

  services.restic.backups.offsite = {
    paths = config.services.aistack.backup.request.sourceDirectories;
    repository = "sftp:backup@backup.example.org:/aistack";
    passwordFile = "/run/secrets/restic-password";
    initialize = true;
  };

  security.acme = {
    acceptTerms = true;
    defaults.email = "admin@example.org";
  };

  # CUDA for llama.cpp and for the embedding model; it is not free software.
  nixpkgs.config = {
    cudaSupport = true;
    allowUnfreePredicate =
      package:
      pkgs._cuda.lib.allowUnfreeCudaPredicate package
      || lib.hasPrefix "nvidia-" (lib.getName package);
  };

  hardware = {
    graphics.enable = true;
    nvidia.open = true;
  };
  services.xserver.videoDrivers = [ "nvidia" ];
}
