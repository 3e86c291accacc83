# The verified download of a model by this machine (fetch = "start"): aistack-model-<instance>. It
# alone has network; the server that reads the file has none.
#
# Type=exec, not oneshot: nobody waits for gigabytes, neither the boot nor a rebuild. When the file
# is in place the unit ends, and OnSuccess= starts the server, which was skipped until then.
{
  config,
  lib,
  pkgs,
  utils,
  ...
}:
let
  cfg = config.services.aistack;
  user = "aistack-models";

  wanted = lib.filterAttrs (
    _: instance: instance.enable && instance.download != null
  ) cfg.llama.instances;

  service =
    name: instance:
    lib.nameValuePair "aistack-model-${name}" {
      description = "Download of the model of ${instance.unit}";
      wantedBy = [ "aistack.target" ];
      partOf = [ "aistack.target" ];
      after = [ "network.target" ];
      onSuccess = [ "${instance.unit}.service" ];
      startLimitIntervalSec = 0;
      environment = config.networking.proxy.envVars // {
        SSL_CERT_FILE = "/etc/ssl/certs/ca-certificates.crt";
      };
      serviceConfig =
        cfg.lib.hardening { network = "egress"; }
        // {
          Type = "exec";
          # Its STATUS= is the progress.
          NotifyAccess = "main";
          ExecStart = utils.escapeSystemdExecArgs (
            [
              (lib.getExe pkgs.python3)
              "${../fetch-model.py}"
              "--url"
              instance.download.url
              "--hash"
              # Null is refused by an assertion, which must be what is seen.
              (toString instance.download.hash)
              "--to"
              instance.modelFile
            ]
            ++ lib.optionals (instance.download.size != null) [
              "--size"
              instance.download.size
            ]
          );
          Slice = "aistack.slice";

          # A user that stays: the file must outlive the unit, and the server reads it as another.
          User = user;
          Group = user;
          UMask = "0022";
          StateDirectory = "aistack-models aistack-models/${name}";
          StateDirectoryMode = "0755";

          # The network may be away for days; a wrong hash or address needs a person.
          Restart = "on-failure";
          RestartSec = 30;
          RestartSteps = 5;
          RestartMaxDelaySec = 900;
          RestartPreventExitStatus = 78;

          Nice = 10;
          IOSchedulingClass = "idle";
          MemoryMax = "512M";
          TasksMax = 16;
        };
    };
in
{
  config = lib.mkIf (cfg.enable && cfg.llama.enable && wanted != { }) {
    users.users.${user} = {
      isSystemUser = true;
      group = user;
      description = "Downloads of models";
    };
    users.groups.${user} = { };

    systemd.services = lib.mapAttrs' service wanted;
  };
}
