# The database on this machine's PostgreSQL, and what the server must be for it.
#
# The server is the host's: its version, its data directory and its other databases are not ours.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkDefault;
  cfg = config.services.aistack;
  own = cfg.postgresql;
  server = config.services.postgresql;

  overSocket = lib.hasPrefix "/" own.host;
  onLoopback = lib.elem own.host [
    "localhost"
    "127.0.0.1"
    "::1"
  ];

  # The services that use the database, by the table.
  clients = lib.filter (name: cfg.${name}.enable && cfg.stack.services.${name}.needs ? postgres) (
    lib.attrNames cfg.stack.services
  );

  elsewhere = !own.createLocally && clients != [ ] && !overSocket && !onLoopback;

  # A standby cannot be written to, and gets all of it from its primary. A failure here would be one
  # of postgresql.target, which others on this machine wait for.
  superuserSql = pkgs.writeText "aistack-superuser.sql" (
    ''
      SELECT pg_is_in_recovery() AS standby \gset
      \if :standby
      \quit
      \endif
    ''
    + own.superuserSql
  );

  # Each service is its own user of the system; all of them are the one role.
  ownLine = "local \"${own.database}\" \"${own.user}\" peer map=aistack";
  pgvector = server.package.pkgs.pgvector.version;
in
{
  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = own.createLocally -> overSocket;
        message = ''
          services.aistack.postgresql.host is ${own.host}, but the database is made on this machine
          and reached by its socket. Remove host, or set
          services.aistack.postgresql.createLocally = false;
        '';
      }
      {
        assertion = builtins.match "/.*|[0-9A-Za-z.:-]+" own.host != null;
        message = ''
          services.aistack.postgresql.host is the name of a machine or a directory, no address with
          user or password (they would be readable in the store): set host, port, user, database
          and passwordFile.
        '';
      }
      {
        assertion = own.createLocally -> own.user == own.database;
        message = ''
          services.aistack.postgresql: the role of a local database owns it by having its name. Set
          user and database both to "${own.database}".
        '';
      }
      {
        assertion = own.createLocally -> own.passwordFile == null;
        message = ''
          services.aistack.postgresql.passwordFile is for an external server: the local one knows
          its clients by their user. Remove it, or set
          services.aistack.postgresql.createLocally = false;
        '';
      }
      {
        assertion = own.createLocally -> lib.hasInfix ownLine server.authentication;
        message = ''
          services.postgresql.authentication was replaced as a whole, and the services could not log
          in. Leave out mkForce (own lines come before the default ones), or add before the others
            ${ownLine}
        '';
      }
      {
        assertion = own.createLocally -> lib.versionAtLeast server.package.version "15";
        message = ''
          services.aistack needs PostgreSQL 15 or newer, and services.postgresql.package is
          ${server.package.version}. Upgrade the host's server (manual: "Upgrading PostgreSQL"), or
          use another one with services.aistack.postgresql.{createLocally = false, host, ...}.
        '';
      }
      {
        assertion = own.createLocally -> lib.versionAtLeast pgvector "0.8.0";
        message = ''
          services.aistack needs pgvector 0.8.0 or newer (iterative scans), and the package set of
          services.postgresql.package has ${pgvector}. Use a newer nixpkgs.
        '';
      }
      {
        assertion =
          elsewhere -> !(lib.elem own.sslMode [ "disable" "prefer" ]);
        message = ''
          services.aistack.postgresql.sslMode = "${own.sslMode}" would send documents and the
          password to ${own.host} in the clear. Set it to "verify-full" (or "require").
        '';
      }
      {
        assertion =
          !own.createLocally && clients != [ ] && own.host == "/run/postgresql" -> server.enable;
        message = ''
          services.aistack.postgresql.createLocally = false; and no PostgreSQL runs on this machine:
          set services.aistack.postgresql.host = "db.example.org"; and passwordFile.
        '';
      }
      {
        assertion = elsewhere -> own.passwordFile != null;
        message = ''
          services.aistack.postgresql.host is another machine, so a password is needed: set
          services.aistack.postgresql.passwordFile = "/run/secrets/...";
        '';
      }
    ];

    # Not an assertion: the locked nixpkgs may have such a version, which its users cannot change.
    warnings = lib.optional (own.createLocally && lib.versionOlder pgvector "0.8.4") ''
      services.aistack: pgvector ${pgvector} can corrupt an HNSW index when it is vacuumed (mended
      in 0.8.3 and 0.8.4). Use a nixpkgs with 0.8.4 or newer; afterwards
      `REINDEX DATABASE ${own.database}` repairs what was hit.
    '';

    # pgvector's control file does not call it trusted, so only a superuser can make it.
    services.aistack.postgresql.superuserSql = lib.mkBefore ''
      SET client_min_messages = warning;
      CREATE EXTENSION IF NOT EXISTS vector;
      ALTER EXTENSION vector UPDATE;
    '';

    services.postgresql = lib.mkIf own.createLocally {
      enable = true;
      extensions = ps: [ ps.pgvector ];
      ensureDatabases = [ own.database ];
      ensureUsers = [
        {
          name = own.user;
          ensureDBOwnership = true;
        }
      ];
      authentication = "${ownLine}\n";
      # Root is there for backups and for an administrator's psql; it could become `postgres` anyhow.
      identMap = lib.concatMapStrings (user: "aistack ${user} ${own.user}\n") (
        map (name: "aistack-${name}") clients
        ++ [
          "aistack-migrate"
          "root"
        ]
      );
      # The usual shares of a server of which vectors and their index should fit into memory.
      settings = lib.mapAttrs (_: mkDefault) {
        shared_buffers = "${toString (own.memory / 4)}MB";
        effective_cache_size = "${toString (own.memory * 3 / 4)}MB";
        # An HNSW graph is built in it; beyond it the build is many times slower.
        maintenance_work_mem = "${toString (lib.max 64 (lib.min 2048 (own.memory / 4)))}MB";
        autovacuum_work_mem = "${toString (lib.max 32 (lib.min 512 (own.memory / 16)))}MB";
        work_mem = "${toString (lib.max 4 (lib.min 64 (own.memory / 64)))}MB";
        # For disks without heads.
        random_page_cost = "1.1";
      };
    };

    systemd.services.postgresql-setup = lib.mkIf own.createLocally {
      # psql's exit status is 0 after an error in a file unless ON_ERROR_STOP is set.
      serviceConfig.ExecStartPost = [
        (
          "${server.finalPackage}/bin/psql --no-psqlrc --quiet --set ON_ERROR_STOP=1"
          + " --dbname ${own.database} --file ${superuserSql}"
        )
      ];
    };
  };
}
