# What the services' settings must not say, and what must be said when a part runs elsewhere.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.aistack;
  inherit (cfg.lib) socketGroup;
  inherit (cfg.stack) services;
  of = import ./service-settings.nix { inherit cfg lib pkgs; };
  enabled = lib.filterAttrs (name: _: cfg.${name}.enable) services;
in
{
  config = lib.mkIf cfg.enable {
    assertions =
      let
        allSettings = [ cfg.settings ] ++ map (name: cfg.${name}.settings) (lib.attrNames enabled);
        strings =
          value:
          if lib.isAttrs value then
            lib.concatMap strings (lib.attrValues value)
          else if lib.isList value then
            lib.concatMap strings value
          else
            lib.optional (lib.isString value) value;
        noneHas =
          section: keys:
          lib.all (
            all: lib.intersectLists keys (lib.attrNames (all.${section} or { })) == [ ]
          ) allSettings;
        noneMatches =
          pattern:
          lib.all (text: builtins.match pattern text == null) (lib.concatMap strings allSettings);

        # Bytes of a size with a suffix; null for a share of the machine's memory.
        bytes =
          size:
          let
            parts = builtins.match "([0-9]+)([KMGT]?)" size;
            factors = {
              "" = 1;
              K = 1024;
              M = 1024 * 1024;
              G = 1024 * 1024 * 1024;
              T = 1024 * 1024 * 1024 * 1024;
            };
          in
          if parts == null then
            null
          else
            lib.toIntBase10 (lib.head parts) * factors.${lib.elemAt parts 1};
      in
      map (name: {
        assertion = lib.stringLength (socketGroup name) <= 31;
        message = ''
          stack.toml: the name ${name} is too long: the group ${socketGroup name} would have more
          than 31 characters. Choose a name of at most 15.
        '';
      }) (lib.attrNames services)
      ++ lib.concatMap (
        name:
        map (need: {
          assertion = false;
          message = ''
            services.aistack: ${name} needs ${need}, which this machine does not run. Say which
            machines do: services.aistack.replicas.${need} = [ "10.0.0.2:9443" ]; or where else one
            answers: services.aistack.settings.${lib.concatStringsSep "." (of.pathOf need)} = "...";
            or run it here.
          '';
        }) (lib.remove "redis" (of.missing name))
      ) (lib.attrNames enabled)
      ++ map (
        name:
        let
          own = cfg.${name};
          high = bytes own.memoryHigh;
          most = bytes own.memoryMax;
        in
        {
          assertion = high == null || most == null || high <= most;
          message = ''
            services.aistack.${name}: memoryHigh (${own.memoryHigh}) is above memoryMax
            (${own.memoryMax}), so it would be killed before anything is taken back. Raise memoryMax
            too.
          '';
        }
      ) (lib.attrNames enabled)
      ++ [
        {
          assertion =
            enabled ? embeddings && (of.settings "embeddings").embeddings.encoder or "auto" == "torch"
            -> cfg.package.withTorch or true;
          message = ''
            services.aistack: the encoder is "torch", and services.aistack.package is without it. Set
            nixpkgs.config.cudaSupport = true; or, for the processor, with the flake's overlay,
            services.aistack.package = pkgs.aistack.override { withTorch = true; };
          '';
        }
        {
          assertion =
            enabled ? embeddings
            && (of.settings "embeddings").embeddings.encoder or "auto" == "openvino"
            -> cfg.package.withOpenvino or true;
          message = ''
            services.aistack: the encoder is "openvino", and services.aistack.package is without it.
            Set, with the flake's overlay,
            services.aistack.package = pkgs.aistack.override { withOpenvino = true; };
          '';
        }
        {
          assertion = !cfg.lib.unseen cfg.embeddingModel;
          message = ''
            services.aistack.embeddingModel is in a home or a temporary directory, which the
            services do not see. Move it, such as to /var/lib/models, where every user can read it.
          '';
        }
        {
          assertion = cfg.rerankModel == null || !cfg.lib.unseen cfg.rerankModel;
          message = ''
            services.aistack.rerankModel is in a home or a temporary directory, which the services do
            not see. Move it, such as to /var/lib/models, where every user can read it.
          '';
        }
        {
          assertion =
            enabled ? aidb && (of.settings "aidb").aidb.rerank or false && enabled ? embeddings
            -> (of.settings "embeddings").embeddings.rerank_model or null != null;
          message = ''
            services.aistack: every search is to be reranked (aidb.rerank), and there is no model for
            it. Set services.aistack.rerankModel to the directory of a cross-encoder.
          '';
        }
        {
          assertion = noneMatches "ais_[0-9A-Za-z]+_[0-9A-Za-z]+";
          message = ''
            services.aistack.settings holds an API key, which would be readable in the store. Put it
            into a file outside and name that one (services.aistack.secrets).
          '';
        }
        {
          assertion = noneMatches "[a-z][a-z0-9+.-]*://[^/@]*:[^/@]*@.*";
          message = ''
            services.aistack.settings holds an address with a password in it, which would be
            readable in the store. Write it without, and name a file:
            services.aistack.redis.passwordFile, services.aistack.postgresql.passwordFile.
          '';
        }
        {
          assertion = noneHas "auth" [
            "keys_file"
            "pepper_file"
            "internal_key_file"
          ];
          message = ''
            services.aistack.settings.auth: the files of keys reach the services as credentials. Set
            services.aistack.secrets.{keysFile,pepperFile,internalKeyFiles} instead.
          '';
        }
        {
          assertion = noneHas "listen" [
            "socket"
            "host"
            "port"
          ];
          message = ''
            services.aistack.settings.listen: systemd opens the sockets of the services. Remove it;
            for other machines see services.aistack.roles.
          '';
        }
        {
          assertion = noneHas "postgres" [
            "host"
            "port"
            "user"
            "database"
            "password_file"
            "sslmode"
          ];
          message = ''
            services.aistack.settings.postgres: where the database is follows from options that the
            migration and the backup follow too. Set services.aistack.postgresql.{host,port,user,
            database,passwordFile,sslMode} instead.
          '';
        }
        {
          assertion = noneHas "redis" [ "password_file" ];
          message = ''
            services.aistack.settings.redis.password_file: a service sees it as a credential only.
            Set services.aistack.redis.passwordFile instead.
          '';
        }
      ];
  };
}
