# PostgreSQL: where the database of documents is, and its migrations. postgresql-server.nix makes it
# on this machine.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.services.aistack;
  own = cfg.postgresql;

  overSocket = lib.hasPrefix "/" own.host;
  onLoopback = lib.elem own.host [
    "localhost"
    "127.0.0.1"
    "::1"
  ];
  network =
    if overSocket then
      "unix"
    else if onLoopback then
      "loopback"
    else
      "egress";

  identifier = types.strMatching "[a-z_][a-z0-9_]{0,62}";

  used = lib.any (name: cfg.${name}.enable && cfg.stack.services.${name}.needs ? postgres) (
    lib.attrNames cfg.stack.services
  );

  settings = unit: {
    postgres = {
      inherit (own)
        host
        port
        user
        database
        ;
    }
    // lib.optionalAttrs (!overSocket) { sslmode = own.sslMode; }
    // lib.optionalAttrs (own.passwordFile != null) {
      password_file = cfg.lib.credential unit "postgres-password";
    };
  };
  credentials = lib.optionalAttrs (own.passwordFile != null) {
    postgres-password = own.passwordFile;
  };
  environment = lib.optionalAttrs (!overSocket) { PGSSLROOTCERT = toString own.sslRootCert; };

  migrateConfig = pkgs.writeText "aistack-migrate.json" (
    builtins.toJSON (cfg.lib.override (settings "aistack-migrate") {
      postgres = cfg.settings.postgres or { };
    })
  );
in
{
  options.services.aistack.postgresql = {
    createLocally = mkOption {
      type = types.bool;
      default = true;
      description = ''
        Whether to make the database on this machine's `services.postgresql`, which is then
        enabled. Its version and its data directory stay what they are.
      '';
    };
    host = mkOption {
      type = types.str;
      default = "/run/postgresql";
      example = "db.example.org";
      description = "Directory of the server's socket, or the name of another machine.";
    };
    port = mkOption {
      type = types.port;
      default = if own.createLocally then config.services.postgresql.settings.port else 5432;
      defaultText = lib.literalExpression "config.services.postgresql.settings.port";
      description = "Port of the server; it is in the name of the socket too.";
    };
    user = mkOption {
      type = identifier;
      default = "aistack";
      description = "Role that owns the database.";
    };
    database = mkOption {
      type = identifier;
      default = "aistack";
      description = "Name of the database.";
    };
    passwordFile = mkOption {
      type = types.nullOr types.externalPath;
      default = null;
      example = "/run/secrets/aistack-postgres";
      description = "File with the role's password, for a server that is reached by TCP.";
    };
    sslMode = mkOption {
      type = types.enum [
        "disable"
        "prefer"
        "require"
        "verify-ca"
        "verify-full"
      ];
      default = if onLoopback then "prefer" else "verify-full";
      defaultText = lib.literalMD ''`"verify-full"`; `"prefer"` on loopback'';
      description = "What is asked of TLS to a server that is reached by TCP (libpq's `sslmode`).";
    };
    sslRootCert = mkOption {
      type = types.path;
      default = "/etc/ssl/certs/ca-certificates.crt";
      description = "Certificates that the server's one is checked against.";
    };
    memory = mkOption {
      type = types.ints.between 128 1048576;
      default = 1024;
      description = ''
        MiB of memory that the local server is tuned for. Every setting that follows from it is a
        default: `services.postgresql.settings` wins.
      '';
    };
    superuserSql = mkOption {
      type = types.lines;
      internal = true;
      default = "";
      description = "SQL that the superuser runs in the database at each start; repeatable.";
    };
    externalSetup = mkOption {
      type = types.lines;
      readOnly = true;
      description = "What an administrator runs once on an external server, as SQL.";
      default = ''
        -- PostgreSQL 15 or newer with pgvector 0.8.4 or newer, as superuser:
        CREATE ROLE ${own.user} LOGIN PASSWORD '...';  -- the content of passwordFile
        CREATE DATABASE ${own.database} OWNER ${own.user};
        \connect ${own.database}
        CREATE EXTENSION IF NOT EXISTS vector;
        -- after each update of pgvector:
        ALTER EXTENSION vector UPDATE;
      '';
    };
  };

  config = lib.mkIf cfg.enable {
    services.aistack.parts.postgres = {
      inherit
        network
        settings
        credentials
        environment
        ;
      units = lib.optional own.createLocally "postgresql.target" ++ [ "aistack-migrate.service" ];
    };

    services.aistack.secrets.watch.aistack-migrate = lib.attrValues credentials;

    systemd.services.aistack-migrate = lib.mkIf used (
      let
        before =
          lib.optional own.createLocally "postgresql.target"
          ++ lib.optional (network == "egress") "network-online.target";
      in
      {
        description = "Schema of the AI stack's database";
        wantedBy = [ "aistack.target" ];
        partOf = [ "aistack.target" ];
        wants = before;
        after = before;
        inherit environment;
        # A new package has a new path here, so a rebuild runs it again.
        serviceConfig = cfg.lib.hardening { inherit network; } // {
          Type = "oneshot";
          RemainAfterExit = true;
          ExecStart = "${lib.getExe cfg.package} migrate up --config ${migrateConfig}";
          DynamicUser = true;
          User = "aistack-migrate";
          inherit (cfg.lib.loadCredentials credentials) LoadCredential SetCredential;
          Slice = "aistack.slice";
          MemoryMax = "1G";
          TasksMax = 32;
          Restart = "on-failure";
          inherit (cfg.lib.never.serviceConfig) RestartSec RestartSteps RestartMaxDelaySec;
        };
        inherit (cfg.lib.never) unitConfig;
      }
    );
  };
}
