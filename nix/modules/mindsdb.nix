# MindsDB: SQL with machine learning over the stack's documents, as a container, opt-in.
#
# NOT EXECUTED YET: nixpkgs has neither a package nor a module for it, and its image could not be
# had where this was written. What is here follows its documentation; the SQL of its role alone was
# run. Its interface is on loopback, its role in PostgreSQL may read only, and it reaches the
# database over the socket with a password. Its root is no user of this machine: PostgreSQL asks the
# kernel who is at the other end of the socket, and this machine's root may be the owner.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.services.aistack;
  own = cfg.mindsdb;
  role = "mindsdb";
  inherit (cfg.postgresql) database user;

  environmentFile = "/run/aistack-mindsdb/environment";
  container = config.virtualisation.oci-containers.containers.aistack-mindsdb.serviceName;

  # 65536 numbers above those that systemd and NixOS give to users and containers.
  ids = "0:1879048192:65536";
in
{
  options.services.aistack.mindsdb = {
    enable = mkOption {
      type = types.bool;
      default = false;
      description = ''
        Whether to run MindsDB, as a container. Written from its documentation, not executed yet.
      '';
    };

    image = mkOption {
      type = types.nullOr (types.strMatching "[^@[:space:]]+@sha256:[0-9a-f]{64}");
      default = null;
      example = "docker.io/mindsdb/mindsdb@sha256:0000000000000000000000000000000000000000000000000000000000000000";
      description = "The image, by its digest: a tag may be another program tomorrow.";
    };

    port = mkOption {
      type = types.port;
      default = 47334;
      description = "Port of its interface (HTTP, MCP) on 127.0.0.1.";
    };

    passwordFile = mkOption {
      type = types.nullOr types.externalPath;
      default = null;
      example = "/run/secrets/mindsdb-password";
      description = ''
        File with the password of its user `mindsdb`. Made at first start when not given.
      '';
    };

    postgresPasswordFile = mkOption {
      type = types.nullOr types.externalPath;
      default = null;
      example = "/run/secrets/postgres-mindsdb-password";
      description = ''
        File with the password of its role in PostgreSQL. Made at first start when not given.
      '';
    };
  };

  config = lib.mkIf (cfg.enable && own.enable) {
    assertions = [
      {
        assertion = own.image != null;
        message = ''
          services.aistack.mindsdb.enable needs an image by digest. Take the digest of the version
          that you want from the registry, for example with
            skopeo inspect --format '{{.Digest}}' docker://docker.io/mindsdb/mindsdb:latest
          and set services.aistack.mindsdb.image = "docker.io/mindsdb/mindsdb@sha256:…".
        '';
      }
      {
        assertion = cfg.postgresql.createLocally;
        message = ''
          services.aistack.mindsdb.enable makes its read-only role on this machine's PostgreSQL, and
          services.aistack.postgresql.createLocally is false. Run MindsDB where the database is.
        '';
      }
      {
        assertion = config.virtualisation.oci-containers.backend == "podman";
        message = ''
          services.aistack.mindsdb.enable needs podman, which gives a container users of its own:
          with Docker its root would be this machine's, which PostgreSQL lets in as the owner. Set
          virtualisation.oci-containers.backend = "podman";
        '';
      }
    ];

    services.aistack.secrets = {
      generate =
        lib.optional (own.passwordFile == null) "mindsdb-password"
        ++ lib.optional (own.postgresPasswordFile == null) "postgres-mindsdb-password";
      watch = {
        aistack-mindsdb-role = lib.filter (file: file != null) [ own.postgresPasswordFile ];
        aistack-mindsdb-environment = lib.filter (file: file != null) [ own.passwordFile ];
      };
    };

    services.postgresql = {
      ensureUsers = [ { name = role; } ];
      # Before the default line, which asks for a user of that name on this machine.
      authentication = "local ${database} ${role} scram-sha-256\n";
    };

    # Tables come later, by migrations of the owner; the default privileges reach them.
    services.aistack.postgresql.superuserSql = ''
      ALTER ROLE ${role} SET default_transaction_read_only = on;
      ALTER ROLE ${role} SET statement_timeout = '60s';
      GRANT CONNECT ON DATABASE ${database} TO ${role};
      GRANT USAGE ON SCHEMA public TO ${role};
      GRANT SELECT ON ALL TABLES IN SCHEMA public TO ${role};
      ALTER DEFAULT PRIVILEGES FOR ROLE ${user} IN SCHEMA public GRANT SELECT ON TABLES TO ${role};
    '';

    systemd.services = {
      aistack-mindsdb-role = {
        description = "Password of MindsDB's role in PostgreSQL";
        wantedBy = [ "aistack.target" ];
        requires = [ "postgresql.target" ];
        wants = [ "aistack-secrets.service" ];
        after = [
          "postgresql.target"
          "aistack-secrets.service"
        ];
        path = [
          config.services.postgresql.finalPackage
          pkgs.coreutils
        ];
        # The password comes by a file, and goes into no log and no list of processes.
        script = ''
          psql --no-psqlrc --quiet -v ON_ERROR_STOP=1 -d ${database} <<'SQL'
          SET log_statement = 'none';
          SET log_min_error_statement = 'panic';
          SET password_encryption = 'scram-sha-256';
          \set password `cat "$CREDENTIALS_DIRECTORY/postgres-password"`
          ALTER ROLE ${role} LOGIN PASSWORD :'password' CONNECTION LIMIT 8;
          SQL
        '';
        environment.PGPORT = toString cfg.postgresql.port;
        serviceConfig = cfg.lib.hardening { network = "unix"; } // {
          Type = "oneshot";
          RemainAfterExit = true;
          User = "postgres";
          Slice = "aistack.slice";
          LoadCredential = [
            "postgres-password:${cfg.lib.secretFile own.postgresPasswordFile "postgres-mindsdb-password"}"
          ];
        };
      };

      aistack-mindsdb-environment = {
        description = "Secrets of MindsDB as its environment file";
        requiredBy = [ "${container}.service" ];
        before = [ "${container}.service" ];
        wants = [ "aistack-secrets.service" ];
        after = [ "aistack-secrets.service" ];
        script = ''
          umask 0077
          printf 'MINDSDB_PASSWORD=%s\n' "$(<"$CREDENTIALS_DIRECTORY/password")" >${environmentFile}
        '';
        serviceConfig = cfg.lib.hardening { } // {
          Type = "oneshot";
          RemainAfterExit = true;
          Slice = "aistack.slice";
          LoadCredential = [ "password:${cfg.lib.secretFile own.passwordFile "mindsdb-password"}" ];
          RuntimeDirectory = "aistack-mindsdb";
          RuntimeDirectoryMode = "0700";
        };
      };

      ${container} = {
        wants = [ "aistack-mindsdb-role.service" ];
        after = [ "aistack-mindsdb-role.service" ];
        partOf = [ "aistack.target" ];
      };
    };

    virtualisation.oci-containers.containers.aistack-mindsdb = {
      image = toString own.image;
      ports = [ "127.0.0.1:${toString own.port}:47334" ];
      environment = {
        MINDSDB_APIS = "http";
        MINDSDB_USERNAME = "mindsdb";
        MINDSDB_STORAGE_DIR = "/mindsdb/var";
        CHECK_FOR_UPDATES = "0";
      };
      environmentFiles = [ environmentFile ];
      volumes = [
        "aistack-mindsdb:/mindsdb/var"
        "/run/postgresql:/run/postgresql:ro"
      ];
      extraOptions = [
        "--uidmap=${ids}"
        "--gidmap=${ids}"
        "--cap-drop=ALL"
        "--security-opt=no-new-privileges"
        "--memory=4g"
        "--pids-limit=256"
      ];
    };
  };
}
