# Backups of what cannot be made again: the database, the key store and secrets, state of other
# parts. A request says what to take and a result how to go back, so that any provider (restic,
# borg, a script) can carry the files away; see docs/operations.md.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkIf optionalAttrs;
  cfg = config.services.aistack;
  own = cfg.backup;
  postgresql = cfg.postgresql;
  local = postgresql.createLocally;

  # Python runs a directory that has a __main__.py.
  program = "${pkgs.python3}/bin/python3 -I ${
    builtins.path {
      path = ../backup;
      name = "aistack-backup";
      filter = path: _: lib.hasSuffix ".py" path;
    }
  }";

  # State of a DynamicUser unit lies in /var/lib/private; /var/lib/<name> is a link, which backup
  # programs do not follow.
  directories = {
    keys = cfg.lib.keysDirectory;
    secrets = cfg.lib.secretsDirectory;
  }
  // optionalAttrs (cfg.openWebui.enable or false) { open-webui = "/var/lib/private/open-webui"; }
  // optionalAttrs (cfg.grafana.enable or false) { grafana = "/var/lib/grafana/data"; }
  // own.extraDirectories;

  # Names only: a list that is carried away must not drag the models along.
  models = lib.mapAttrs (_: instance: {
    file = builtins.unsafeDiscardStringContext (toString instance.modelFile);
    inherit (instance) url hash preset;
  }) (lib.optionalAttrs (cfg.llama.enable or false) cfg.llama.instances);

  table = pkgs.writeText "aistack-backup.json" (
    builtins.toJSON {
      paths = directories;
      facts = {
        aistack = cfg.package.version or "unknown";
        embedding_model = builtins.unsafeDiscardStringContext "${cfg.embeddingModel}";
        inherit models;
      };
    }
  );

  # The file names begin with the revision.
  revisions = map (file: lib.head (lib.splitString "_" file)) (
    lib.filter (file: builtins.match "[0-9]{4}_.*[.]py" file != null) (
      lib.attrNames (builtins.readDir ../../src/aistack/migrations/versions)
    )
  );

  writers = lib.attrNames (
    lib.filterAttrs (name: entry: entry.needs ? postgres && cfg.${name}.enable) cfg.stack.services
  );
  # The socket too: a client that connects would start the service again.
  unitsOf = name: [
    "aistack-${name}.socket"
    "aistack-${name}.service"
  ];

  environment = {
    PGHOST = postgresql.host;
    PGPORT = toString postgresql.port;
    PGUSER = postgresql.user;
    PGDATABASE = postgresql.database;
    AISTACK_BACKUP_DIRECTORY = own.directory;
    AISTACK_BACKUP_KEEP = toString own.keep;
    AISTACK_BACKUP_COMPRESSION = toString own.compression;
    AISTACK_BACKUP_TABLE = "${table}";
  }
  // optionalAttrs cfg.prometheus.enable {
    AISTACK_BACKUP_METRICS = "${cfg.prometheus.textfileDirectory}/aistack_backup.prom";
  }
  // optionalAttrs (!local) {
    PGSSLMODE = postgresql.sslMode;
  }
  // optionalAttrs (!local && postgresql.sslRootCert != null) {
    PGSSLROOTCERT = toString postgresql.sslRootCert;
  }
  // optionalAttrs (!local && postgresql.passwordFile != null) {
    AISTACK_BACKUP_PASSWORD_FILE = "%d/postgres-password";
  };

  restoreEnvironment =
    environment
    // {
      AISTACK_RESTORE_WRITERS = toString (lib.concatMap unitsOf writers);
      AISTACK_RESTORE_KEY_UNITS = toString (
        map (name: "aistack-${name}.service") (
          lib.filter (name: cfg.${name}.enable) (lib.attrNames cfg.stack.services)
        )
      );
      AISTACK_RESTORE_MIGRATE = "aistack-migrate.service";
      AISTACK_RESTORE_REVISIONS = toString revisions;
    }
    // optionalAttrs local {
      AISTACK_RESTORE_ADMIN_ROLE = "postgres";
      AISTACK_RESTORE_ADMIN_USER = "postgres";
      AISTACK_RESTORE_SUPERUSER_SQL = "${pkgs.writeText "aistack-superuser.sql" postgresql.superuserSql}";
    };

  database = lib.optional local "postgresql.target";

  serviceConfig =
    network:
    cfg.lib.hardening {
      inherit network;
      exceptions = [ "root" ];
    }
    // {
      Type = "oneshot";
      Slice = "aistack.slice";
      CPUWeight = 20;
      IOSchedulingClass = "idle";
      TimeoutStartSec = "6h";
      ReadWritePaths = [
        own.directory
      ]
      ++ lib.optional cfg.prometheus.enable cfg.prometheus.textfileDirectory;
      LoadCredential = lib.optional (
        !local && postgresql.passwordFile != null
      ) "postgres-password:${postgresql.passwordFile}";
    };

  restoreUnit =
    verb: description:
    let
      confined = serviceConfig (if local then "unix" else "egress");
    in
    {
      inherit description;
      environment = restoreEnvironment;
      path = [
        own.postgresqlPackage
        config.systemd.package
      ];
      wants = database;
      after = database;
      unitConfig.RequiresMountsFor = own.directory;
      serviceConfig = confined // {
        ExecStart = "${program} ${verb} %i";
        # The administrator's work is done as the user `postgres`; restored keys get their owner back.
        CapabilityBoundingSet = [
          "CAP_CHOWN"
          "CAP_DAC_OVERRIDE"
          "CAP_FOWNER"
          "CAP_SETGID"
          "CAP_SETUID"
        ];
        SystemCallFilter = [ "@system-service" ];
        ReadWritePaths = [
          own.directory
          cfg.lib.stateDirectory
        ];
      };
    };
in
{
  imports = [ ./backup-options.nix ];

  config = mkIf (cfg.enable && own.enable) {
    assertions = [
      {
        assertion = lib.hasPrefix "/" own.directory && !lib.hasPrefix "/var/lib/aistack/" own.directory;
        message = ''
          services.aistack.backup.directory is ${own.directory}: give an absolute path outside of
          ${cfg.lib.stateDirectory}, such as "/var/backup/aistack".
        '';
      }
      {
        assertion = !cfg.lib.unseen own.directory;
        message = ''
          services.aistack.backup.directory is ${own.directory}, which the confined unit does not see
          (ProtectHome=, PrivateTmp=): use a directory elsewhere, such as "/var/backup/aistack".
        '';
      }
      {
        assertion = !own.extraDirectories ? keys && !own.extraDirectories ? secrets;
        message = ''
          services.aistack.backup.extraDirectories: the names keys and secrets are the stack's own;
          choose another, for example { my-keys = "/var/lib/my-keys"; }.
        '';
      }
    ]
    ++ map (name: {
      assertion = config.services.restic.backups ? ${name};
      message = ''
        services.aistack.backup.restic names ${name}, which services.restic.backups does not have:
        define services.restic.backups.${name} with
        paths = config.services.aistack.backup.request.sourceDirectories.
      '';
    }) own.restic;

    systemd.tmpfiles.rules = [ "d ${own.directory} 0700 root root -" ];

    systemd.services = {
      aistack-backup = {
        description = "Backup of the AI stack";
        inherit environment;
        path = [ own.postgresqlPackage ];
        wants = database;
        # Not onto the disk below, when its own is not mounted.
        unitConfig.RequiresMountsFor = own.directory;
        # Two dumps at once would only slow each other.
        after = database ++ [
          "aistack-migrate.service"
          "postgresqlBackup.service"
          "postgresqlBackup-aistack.service"
        ];
        serviceConfig = serviceConfig (if local then "unix" else "egress") // {
          ExecStart = "${program} backup";
          # State of other users is read, and nothing of it written.
          CapabilityBoundingSet = [ "CAP_DAC_READ_SEARCH" ];
        };
      };

      "aistack-restore@" = restoreUnit "restore" "Restore of the AI stack's database from the backup %i";
      "aistack-restore-keys@" = restoreUnit "restore-keys" "Restore of the AI stack's keys from the backup %i";
    }
    // lib.listToAttrs (
      map (
        name:
        lib.nameValuePair "restic-backups-${name}" {
          wants = [ "aistack-backup.service" ];
          after = [ "aistack-backup.service" ];
        }
      ) own.restic
    );

    systemd.timers.aistack-backup = {
      description = "Backups of the AI stack";
      wantedBy = [ "timers.target" ];
      timerConfig = {
        OnCalendar = own.startAt;
        Persistent = true;
        RandomizedDelaySec = "10min";
      };
    };
  };
}
