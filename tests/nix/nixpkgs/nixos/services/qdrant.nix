# services.qdrant.*
# Facts: nixos/modules/services/search/qdrant.nix, read in the copy Swarsel/nixpkgs at
# 4aa6836a648ca76c68866decf0c8965e36ec2a3b.
{ config, lib, pkgs, ... }:
let
  cfg = config.services.qdrant;
  format = pkgs.formats.yaml { };
  file = format.generate "config.yaml" cfg.settings;
in
{
  options.services.qdrant = {
    enable = lib.mkEnableOption "Vector Search Engine for the next generation of AI applications";
    package = lib.mkPackageOption pkgs "qdrant" { };
    webUIPackage = lib.mkPackageOption pkgs "qdrant-web-ui" { };
    settings = lib.mkOption {
      inherit (format) type;
    };
  };
  config = lib.mkIf cfg.enable {
    services.qdrant.settings = {
      storage = {
        storage_path = lib.mkDefault "/var/lib/qdrant/storage";
        snapshots_path = lib.mkDefault "/var/lib/qdrant/snapshots";
        on_disk_payload = lib.mkDefault true;
        wal.wal_capacity_mb = lib.mkDefault 32;
        wal.wal_segments_ahead = lib.mkDefault 0;
        performance.max_search_threads = lib.mkDefault 0;
        performance.max_optimization_threads = lib.mkDefault 1;
        optimizers = lib.mapAttrs (_: lib.mkDefault) {
          deleted_threshold = 0.2;
          vacuum_min_vector_number = 1000;
          default_segment_number = 0;
          max_segment_size_kb = null;
          memmap_threshold_kb = null;
          indexing_threshold_kb = 20000;
          flush_interval_sec = 5;
          max_optimization_threads = 1;
        };
        hnsw_index = lib.mapAttrs (_: lib.mkDefault) {
          m = 16;
          ef_construct = 100;
          full_scan_threshold_kb = 10000;
          max_indexing_threads = 0;
          on_disk = false;
          payload_m = null;
        };
      };
      service = {
        host = lib.mkDefault "127.0.0.1";
        http_port = lib.mkDefault 6333;
        grpc_port = lib.mkDefault 6334;
        enable_cors = lib.mkDefault true;
        max_request_size_mb = lib.mkDefault 32;
        max_workers = lib.mkDefault 0;
        static_content_dir = lib.mkDefault "${cfg.webUIPackage}";
      };
      cluster.enabled = lib.mkDefault false;
      telemetry_disabled = lib.mkDefault true;
    };
    systemd.services.qdrant = {
      description = "Vector Search Engine for the next generation of AI applications";
      wantedBy = [ "multi-user.target" ];
      after = [ "network.target" ];
      serviceConfig = {
        LimitNOFILE = 65536;
        ExecStart = "${cfg.package}/bin/qdrant --config-path ${file}";
        DynamicUser = true;
        Restart = "on-failure";
        StateDirectory = "qdrant";
        CapabilityBoundingSet = "";
        NoNewPrivileges = true;
        PrivateTmp = true;
        ProtectHome = true;
        ProtectClock = true;
        ProtectProc = "noaccess";
        ProcSubset = "pid";
        ProtectKernelLogs = true;
        ProtectKernelModules = true;
        ProtectKernelTunables = true;
        ProtectControlGroups = true;
        ProtectHostname = true;
        RestrictSUIDSGID = true;
        RestrictRealtime = true;
        RestrictNamespaces = true;
        LockPersonality = true;
        RemoveIPC = true;
        SystemCallFilter = [
          "@system-service"
          "~@privileged"
        ];
      };
    };
  };
}
