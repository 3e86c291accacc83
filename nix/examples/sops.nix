# Secrets from sops-nix. Every file stays root's, mode 0400: systemd hands it to the unit. No
# restartUnits are needed: a unit whose file changes is restarted by the module.
{ config, ... }:
{
  sops.defaultSopsFile = ./secrets.yaml;
  sops.secrets = {
    aistack-pepper = { };
    aistack-postgres = { };
    grafana-admin = { };
  };

  services.aistack = {
    enable = true;
    secrets.pepperFile = config.sops.secrets.aistack-pepper.path;
    # Only where the database is on another machine; otherwise leave it out.
    postgresql = {
      createLocally = false;
      host = "db.example.org";
      passwordFile = config.sops.secrets.aistack-postgres.path;
    };
    grafana.adminPasswordFile = config.sops.secrets.grafana-admin.path;
  };
}
