# services.postgresql.*: options.
# Facts: nixos/modules/services/databases/postgresql.nix, read in the copy Swarsel/nixpkgs at
# 4aa6836a648ca76c68866decf0c8965e36ec2a3b (26.11pre); the clauses of users in 26.05 as
# the copy faukah/nixpkgs at 3b20077cd82fd1f099e92e2792d73e3176d4869d has them.
{ config, lib, pkgs, release, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.services.postgresql;
  plain = type: default: mkOption { inherit type default; };
  base = if cfg.enableJIT then cfg.package.withJIT else cfg.package.withoutJIT;
  installed = cfg.extensions pkgs.${"postgresql${cfg.package.psqlSchema}Packages"};
  user.options = {
    name = mkOption { type = types.str; };
    ensureDBOwnership = plain types.bool false;
    ensureClauses = plain (types.submodule (
      if lib.versionAtLeast release "26.11" then
        {
          freeformType = types.attrsOf (
            types.oneOf [
              types.str
              types.int
              types.bool
            ]
          );
        }
      else
        {
          options = lib.genAttrs [
            "superuser"
            "createrole"
            "createdb"
            "inherit"
            "login"
            "replication"
            "bypassrls"
          ] (_: plain (types.nullOr types.bool) null);
        }
    )) { };
  };
  callFilter =
    { name, ... }:
    {
      options = {
        enable = lib.mkEnableOption "${name} in postgresql's syscall filter";
        priority = plain types.int (
          if lib.hasPrefix "@" name then
            500
          else if lib.hasPrefix "~@" name then
            1000
          else
            1500
        );
      };
    };
in
{
  imports = [
    ./postgresql-units.nix
    (lib.mkRenamedOptionModule
      [ "services" "postgresql" "port" ]
      [ "services" "postgresql" "settings" "port" ]
    )
    (lib.mkRenamedOptionModule
      [ "services" "postgresql" "extraPlugins" ]
      [ "services" "postgresql" "extensions" ]
    )
    (lib.mkRemovedOptionModule [
      "services"
      "postgresql"
      "extraConfig"
    ] "Use services.postgresql.settings instead.")
  ];

  options.services.postgresql = {
    enable = lib.mkEnableOption "PostgreSQL Server";
    enableJIT = lib.mkEnableOption "JIT support";
    package = mkOption { type = types.package; };
    finalPackage = mkOption {
      type = types.package;
      readOnly = true;
      default = if installed == [ ] then base else base.withPackages (_: installed);
    };
    systemCallFilter = mkOption {
      type = types.attrsOf (
        types.coercedTo types.bool (enable: { inherit enable; }) (types.submodule callFilter)
      );
    };
    checkConfig = plain types.bool true;
    dataDir = mkOption { type = types.path; };
    authentication = plain types.lines "";
    identMap = plain types.lines "";
    initdbArgs = plain (types.listOf types.str) [ ];
    initialScript = plain (types.nullOr types.path) null;
    ensureDatabases = plain (types.listOf types.str) [ ];
    ensureUsers = plain (types.listOf (types.submodule user)) [ ];
    enableTCPIP = plain types.bool false;
    # A function of the package set that gives a list: several definitions are joined.
    extensions = plain (types.coercedTo (types.listOf types.path) (paths: _: paths) (
      types.functionTo (types.listOf types.path)
    )) (_: [ ]);
    settings = plain (types.submodule {
      freeformType = types.attrsOf (
        types.oneOf [
          types.bool
          types.float
          types.int
          types.str
        ]
      );
      options = {
        shared_preload_libraries = plain (types.nullOr (
          types.coercedTo (types.listOf types.str) (lib.concatStringsSep ",") types.commas
        )) null;
        log_line_prefix = plain types.str "[%p] ";
        port = plain types.port 5432;
      };
    }) { };
    superUser = mkOption {
      type = types.str;
      default = "postgres";
      internal = true;
      readOnly = true;
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = map (user: {
      assertion = user.ensureDBOwnership -> lib.elem user.name cfg.ensureDatabases;
      message = ''
        For each database user defined with `services.postgresql.ensureUsers` and
        `ensureDBOwnership = true;`, a database with the same name must be defined
        in `services.postgresql.ensureDatabases`.

        Offender: ${user.name} has not been found among databases.
      '';
    }) cfg.ensureUsers;

    services.postgresql = {
      package =
        let
          from = lib.versionAtLeast config.system.stateVersion;
          chosen =
            if from "26.11" then
              pkgs.postgresql_18
            else if from "25.11" then
              pkgs.postgresql_17
            else if from "24.11" then
              pkgs.postgresql_16
            else if from "23.11" then
              pkgs.postgresql_15
            else
              throw "postgresql for this system.stateVersion was removed, please upgrade your postgresql version.";
        in
        lib.mkDefault (if cfg.enableJIT then chosen.withJIT else chosen);
      dataDir = lib.mkDefault "/var/lib/postgresql/${cfg.package.psqlSchema}";
      settings = {
        hba_file = "${pkgs.writeText "pg_hba.conf" cfg.authentication}";
        ident_file = "${pkgs.writeText "pg_ident.conf" cfg.identMap}";
        log_destination = "stderr";
        listen_addresses = if cfg.enableTCPIP then "*" else "localhost";
        jit = lib.mkDefault (if cfg.enableJIT then "on" else "off");
      };
      authentication = lib.mkMerge [
        (lib.mkBefore "# Generated file; do not edit!")
        (lib.mkAfter ''
          # default value of services.postgresql.authentication
          local all postgres         peer map=postgres
          local all all              peer
          host  all all 127.0.0.1/32 md5
          host  all all ::1/128      md5
        '')
      ];
      identMap = lib.mkAfter ''
        postgres postgres postgres
      '';
      systemCallFilter = lib.mapAttrs (_: lib.mkDefault) {
        "@system-service" = true;
        "~@privileged" = true;
        "~@resources" = true;
      };
    };
    users.users.postgres = {
      uid = 71;
      group = "postgres";
      description = "PostgreSQL server user";
      home = "${cfg.dataDir}";
      useDefaultShell = true;
    };
    users.groups.postgres.gid = 71;
    environment.systemPackages = [ cfg.finalPackage ];
  };
}
