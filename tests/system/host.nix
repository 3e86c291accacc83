# The configuration that the system test boots: the whole stack as a user would write it, with a
# small model, without the three programs that Debian does not have.
{ pkgs, ... }:
{
  system.stateVersion = "26.05";
  networking.hostName = "machine";

  services.aistack = {
    enable = true;
    nginx = {
      hostName = "machine";
      # The load of the test comes from one address with one key.
      limits.perKey.enable = false;
    };
    llama.instances.chat = {
      model = "/var/lib/models/chat.gguf";
      contextSize = 4096;
      parallel = 2;
    };
    grafana.enable = false;
    # A small receiver of the test's own.
    tracing.endpoint = "http://127.0.0.1:4317";
    prometheus.exporterTargets.systemd = [ ];
  };

  # The version of the wheel that stands for it.
  services.postgresql.package = pkgs.postgresql_18;
  services.prometheus.exporters.systemd.enable = false;
}
