# Secrets from agenix. Every file stays root's, mode 0400: systemd hands it to the unit, which is
# restarted when the file changes.
{ config, ... }:
{
  age.secrets = {
    aistack-pepper.file = ./aistack-pepper.age;
    aistack-postgres.file = ./aistack-postgres.age;
    grafana-admin.file = ./grafana-admin.age;
  };

  services.aistack = {
    enable = true;
    secrets.pepperFile = config.age.secrets.aistack-pepper.path;
    # Only where the database is on another machine; otherwise leave it out.
    postgresql = {
      createLocally = false;
      host = "db.example.org";
      passwordFile = config.age.secrets.aistack-postgres.path;
    };
    grafana.adminPasswordFile = config.age.secrets.grafana-admin.path;
  };
}
