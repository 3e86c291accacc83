# `aistack` on the machine: root finds the keys, the sockets and the site without being told, others
# the site.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.aistack;
  site = cfg.nginx;
  inherit (cfg.lib) keysDirectory stateDirectory;

  tls = site.tls.mode != "off";
  port = if tls then site.httpsPort else site.httpPort;
  usual = if tls then 443 else 80;
  name = if site.hostName != null then site.hostName else "localhost";

  url =
    "http${lib.optionalString tls "s"}://${name}"
    + lib.optionalString (port != usual) ":${toString port}";

  # What `aistack up` writes where it runs the stack; here systemd does, which is process 1.
  endpoint = pkgs.writeText "aistack-endpoint.json" (
    builtins.toJSON {
      base_url = url;
      key_file = "${keysDirectory}/default.key";
      run_dir = "/run/aistack";
      pid = 1;
    }
  );

  # Others than root cannot read the keys and bring their own. Who runs a stack in the home speaks
  # to that one.
  command = pkgs.writeShellScriptBin "aistack" (
    ''
      if [ -z "''${AISTACK_DATA_DIR-}" ] && [ -z "''${AISTACK_URL-}" ]; then
        if [ "$EUID" = 0 ]; then
          export AISTACK_DATA_DIR=${stateDirectory}
    ''
    + lib.optionalString site.enable ''
      elif [ ! -e "''${XDG_DATA_HOME-''${HOME-}/.local/share}/aistack/endpoint.json" ]; then
        export AISTACK_URL=${url}
    ''
    + ''
      fi
    ''
    + lib.optionalString (site.enable && site.tls.mode == "self-signed") ''
      export SSL_CERT_FILE="''${SSL_CERT_FILE-${site.tls.selfSigned}}"
    ''
    + ''
      fi
      exec ${lib.getExe cfg.package} "$@"
    ''
  );

  # The machine itself reaches its site by name, with or without DNS.
  loopback = lib.intersectLists site.listenAddresses [
    "0.0.0.0"
    "127.0.0.1"
  ];
in
{
  config = lib.mkIf cfg.enable {
    environment.systemPackages = [ command ];

    networking.hosts = lib.mkIf (site.enable && site.hostName != null && loopback != [ ]) {
      "127.0.0.1" = [ site.hostName ];
    };

    systemd.tmpfiles.rules = lib.optional site.enable (
      "L+ ${stateDirectory}/endpoint.json - - - - ${endpoint}"
    );
  };
}
