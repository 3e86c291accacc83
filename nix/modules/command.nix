# `aistack` on the machine: root finds the keys, the sockets and the site without being told.
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

  # What `aistack up` writes where it runs the stack; here systemd does, which is process 1.
  endpoint = pkgs.writeText "aistack-endpoint.json" (
    builtins.toJSON {
      base_url =
        "http${lib.optionalString tls "s"}://${name}"
        + lib.optionalString (port != usual) ":${toString port}";
      key_file = "${keysDirectory}/default.key";
      run_dir = "/run/aistack";
      pid = 1;
    }
  );

  # Others than root cannot read the keys: they name the address and their own.
  command = pkgs.writeShellScriptBin "aistack" (
    ''
      if [ "$EUID" = 0 ] && [ -z "''${AISTACK_DATA_DIR-}" ] && [ -z "''${AISTACK_URL-}" ]; then
        export AISTACK_DATA_DIR=${stateDirectory}
    ''
    + lib.optionalString (site.enable && site.tls.mode == "self-signed") ''
      export SSL_CERT_FILE="''${SSL_CERT_FILE-${site.tls.selfSigned}}"
    ''
    + ''
      fi
    ''
    + ''
      exec ${lib.getExe cfg.package} "$@"
    ''
  );
in
{
  config = lib.mkIf cfg.enable {
    environment.systemPackages = [ command ];

    systemd.tmpfiles.rules = lib.optional site.enable (
      "L+ ${stateDirectory}/endpoint.json - - - - ${endpoint}"
    );
  };
}
