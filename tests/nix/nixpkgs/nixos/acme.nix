# security.acme.*
# Facts: nixos/modules/security/acme/default.nix, read in the copy Swarsel/nixpkgs at
# 4aa6836a648ca76c68866decf0c8965e36ec2a3b: acme-setup.service,
# acme-<name>.service (a self-signed baseline, which web servers wait for) and
# acme-order-renew-<name>.service with its timer, which gets the real one. The scripts are this file's.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.security.acme;
  plain = type: default: mkOption { inherit type default; };
  nullStr = plain (types.nullOr types.str) null;
  strings = plain (types.listOf types.str) [ ];
  # What holds for all certificates, or for one.
  inheritable =
    defaults:
    let
      value = name: type: default: mkOption {
        inherit type;
        default = if defaults == null then default else defaults.${name};
      };
      nullable = name: type: value name (types.nullOr type) null;
    in
    {
      email = nullable "email" types.str;
      server = value "server" (types.nullOr types.str) "https://acme-v02.api.letsencrypt.org/directory";
      dnsProvider = nullable "dnsProvider" types.str;
      environmentFile = nullable "environmentFile" types.path;
      credentialFiles = value "credentialFiles" (types.attrsOf types.path) { };
      webroot = nullable "webroot" types.str;
      listenHTTP = nullable "listenHTTP" types.str;
      group = value "group" types.str "acme";
      keyType = value "keyType" types.str "ec256";
      reloadServices = value "reloadServices" (types.listOf types.str) [ ];
      renewInterval = value "renewInterval" types.str "daily";
      renewJitter = value "renewJitter" types.str "24h";
      postRun = value "postRun" types.lines "";
      profile = nullable "profile" types.str;
      validMinDays = nullable "validMinDays" types.int;
      extraLegoFlags = value "extraLegoFlags" (types.listOf types.str) [ ];
    };
  cert =
    { name, ... }:
    {
      options = inheritable cfg.defaults // {
        domain = plain types.str name;
        extraDomainNames = strings;
        csr = nullStr;
        inheritDefaults = plain types.bool true;
        directory = mkOption {
          type = types.str;
          readOnly = true;
          default = "/var/lib/acme/${name}";
        };
      };
    };
  common = {
    Type = "oneshot";
    User = "acme";
    UMask = "0022";
    StateDirectoryMode = "750";
    ProtectSystem = "strict";
    ReadWritePaths = [
      "/var/lib/acme"
      "/run/acme/"
    ]
    ++ lib.unique (
      lib.filter (root: root != null && !(lib.hasPrefix "/var/lib/acme/" root)) (
        lib.mapAttrsToList (_: c: c.webroot) cfg.certs
      )
    );
    PrivateTmp = true;
    WorkingDirectory = "/tmp";
    CapabilityBoundingSet = [ "" ];
    DevicePolicy = "closed";
    LockPersonality = true;
    MemoryDenyWriteExecute = true;
    NoNewPrivileges = true;
    PrivateDevices = true;
    ProtectClock = true;
    ProtectHome = true;
    ProtectHostname = true;
    ProtectControlGroups = true;
    ProtectKernelLogs = true;
    ProtectKernelModules = true;
    ProtectKernelTunables = true;
    ProtectProc = "invisible";
    ProcSubset = "pid";
    RemoveIPC = true;
    RestrictAddressFamilies = [ "AF_INET" "AF_INET6" "AF_UNIX" "AF_NETLINK" ];
    RestrictNamespaces = true;
    RestrictRealtime = true;
    RestrictSUIDSGID = true;
    SystemCallArchitectures = "native";
    SystemCallFilter = [
      "@system-service @resources"
      "~@privileged"
      "@chown"
    ];
  };
  domains = c: [ c.domain ] ++ c.extraDomainNames;
  baseline = name: c: {
    description = "Ensure certificate for ${name}";
    wantedBy = [ "multi-user.target" ];
    wants = [
      "acme-setup.service"
      "acme-order-renew-${name}.service"
    ];
    after = [ "acme-setup.service" ];
    before = [ "acme-order-renew-${name}.service" ];
    restartTriggers = [ config.systemd.services."acme-order-renew-${name}".script ];
    unitConfig.StartLimitIntervalSec = 0;
    path = [ pkgs.minica ];
    serviceConfig = common // {
      Group = c.group;
      UMask = "0027";
      RemainAfterExit = true;
      StateDirectory = "acme/${name}";
    };
    script = ''
      cd ${c.directory}
      if [ ! -e cert.pem ]; then
        minica --ca-key /var/lib/acme/.minica/key.pem --ca-cert /var/lib/acme/.minica/cert.pem \
          --domains ${lib.escapeShellArg (lib.concatStringsSep "," (domains c))}
        cp "${c.domain}"/* .
        cat cert.pem /var/lib/acme/.minica/cert.pem > fullchain.pem
        cat key.pem fullchain.pem > full.pem
        cp /var/lib/acme/.minica/cert.pem chain.pem
        chown 'acme:${c.group}' ./*.pem
        chmod 640 ./*.pem
      fi
    '';
  };
  renewal = name: c: {
    description = "Order (and renew) ACME certificate for ${name}";
    after = [
      "network.target"
      "network-online.target"
      "acme-setup.service"
      "nss-lookup.target"
      "acme-${name}.service"
    ];
    wants = [
      "network-online.target"
      "acme-setup.service"
      "acme-${name}.service"
    ];
    wantedBy = [ "multi-user.target" ];
    path = [
      pkgs.lego
      pkgs.coreutils
    ];
    serviceConfig = common // {
      Group = c.group;
      StateDirectory = "acme/${name}";
      LoadCredential = lib.mapAttrsToList (key: file: "${key}:${file}") c.credentialFiles;
    };
    script = ''
      exec lego --accept-tos --server ${lib.escapeShellArg c.server} --email ${lib.escapeShellArg c.email} \
        ${lib.concatMapStringsSep " " (d: "-d ${lib.escapeShellArg d}") (domains c)} --key-type ${c.keyType} \
        ${if c.dnsProvider != null then "--dns ${c.dnsProvider}" else "--http --http.webroot ${toString c.webroot}"} run
    '';
  };
in
{
  options.security.acme = {
    acceptTerms = plain types.bool false;
    useRoot = plain types.bool false;
    maxConcurrentRenewals = plain types.int 5;
    defaults = inheritable null;
    certs = plain (types.attrsOf (types.submodule cert)) { };
  };
  config = lib.mkIf (cfg.certs != { }) {
    assertions = [
      {
        assertion = cfg.acceptTerms;
        message = ''
          You must accept the CA's terms of service before using
          the ACME module by setting `security.acme.acceptTerms`
          to `true`. For Let's Encrypt's ToS see https://letsencrypt.org/repository/
        '';
      }
    ]
    ++ lib.concatLists (
      lib.mapAttrsToList (name: c: [
        {
          assertion = c.email != null;
          message = ''
            You must define `security.acme.certs.${name}.email` or
            `security.acme.defaults.email` to register with the CA. Note that using
            many different addresses for certs may trigger account rate limits.
          '';
        }
        {
          assertion = lib.count (x: x != null) [ c.dnsProvider c.webroot c.listenHTTP ] == 1;
          message = "Exactly one of the options `security.acme.certs.${name}.dnsProvider`, `webroot` and `listenHTTP` is required.";
        }
      ]) cfg.certs
    );
    users.users.acme = {
      home = "/var/lib/acme";
      group = "acme";
      isSystemUser = true;
    };
    users.groups.acme = { };
    systemd.services = {
      acme-setup = {
        description = "Set up the ACME certificate renewal infrastructure";
        path = [
          pkgs.minica
          pkgs.coreutils
        ];
        serviceConfig = common // {
          Group = "acme";
          UMask = "0077";
          StateDirectoryMode = "0755";
          RuntimeDirectory = "acme";
          RuntimeDirectoryMode = "0700";
          RemainAfterExit = true;
          StateDirectory = [
            "acme"
            "acme/.lego"
            "acme/.lego/accounts"
            "acme/.minica"
          ];
        };
        script = ''
          cd /var/lib/acme/.minica
          test -e key.pem || minica --ca-key key.pem --ca-cert cert.pem --domains selfsigned.local
          chmod 600 key.pem
        '';
      };
    }
    // lib.mapAttrs' (name: c: lib.nameValuePair "acme-${name}" (baseline name c)) cfg.certs
    // lib.mapAttrs' (name: c: lib.nameValuePair "acme-order-renew-${name}" (renewal name c)) cfg.certs;
    systemd.timers = lib.mapAttrs' (
      name: c:
      lib.nameValuePair "acme-renew-${name}" {
        description = "Renew ACME Certificate for ${name}";
        wantedBy = [ "timers.target" ];
        timerConfig = {
          OnCalendar = c.renewInterval;
          Unit = "acme-order-renew-${name}.service";
          Persistent = "yes";
          AccuracySec = "600s";
          RandomizedDelaySec = c.renewJitter;
          FixedRandomDelay = true;
        };
      }
    ) cfg.certs;
  };
}
