# What all three machines have in common: who they are to each other, and the keys that they share.
#
# The files come from your secret store (sops-nix, agenix, by hand): none of them is in this
# repository or in the Nix store. docs/install-nixos.md shows how to make them.
{
  services.aistack = {
    enable = true;

    # What passes between the machines is encrypted, and both ends are verified.
    machines = {
      authority = "/run/secrets/aistack-ca.pem";
      certificate = "/run/secrets/aistack-machine.pem";
      certificateKey = "/run/secrets/aistack-machine.key";
      openFirewall = true;
    };

    # One key store for all: a key that is revoked in it is refused everywhere.
    secrets = {
      keysFile = "/run/secrets/aistack-keys.json";
      pepperFile = "/run/secrets/aistack-pepper";
      internalKeyFiles = {
        aidb = "/run/secrets/aistack-aidb.key";
        coordinator = "/run/secrets/aistack-coordinator.key";
        embeddings = "/run/secrets/aistack-embeddings.key";
      };
    };
  };
}
