# Traces: services write OTLP over gRPC to /run/aistack/otlp.sock, which leads to Tempo here or to
# another OTLP endpoint. A unix socket, because most services have no network at all.
#
# systemd opens the socket and starts systemd-socket-proxyd with the first connection. Tempo could
# listen on a unix socket itself (its receiver is the OpenTelemetry collector's, `transport: unix`),
# but a socket of systemd's is there before Tempo is, survives its restarts, has a group, is left
# behind by no crash, and is the same whatever receives.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkDefault mkIf mkOption types;
  cfg = config.services.aistack;
  own = cfg.tracing;
  loopback = "127.0.0.1";
  group = "aistack-otlp-clients";
  socket = "/run/aistack/otlp.sock";

  toUnix = own.endpoint != null && lib.hasPrefix "unix:" own.endpoint;
  tempo = own.endpoint == null;
  # `http://host:port` as the proxy wants it.
  target =
    if tempo then "127.0.0.1:${toString own.otlpPort}" else lib.removePrefix "http://" own.endpoint;
  services = map (name: "aistack-${name}") (
    lib.filter (name: cfg.${name}.enable) (lib.attrNames cfg.stack.services)
  );
  remote = !tempo && builtins.match "(127[.].*|localhost|\\[::1]):.*" target == null;

  proxy = lib.recursiveUpdate cfg.lib.never {
    description = "Traces of the AI stack, to ${target}";
    requires = [ "aistack-otlp.socket" ];
    after = [ "aistack-otlp.socket" ] ++ lib.optional tempo "tempo.service";
    wants = lib.optional tempo "tempo.service";
    serviceConfig =
      cfg.lib.hardening { network = if remote then "egress" else "loopback"; }
      // {
        Type = "notify";
        ExecStart = "${config.systemd.package}/lib/systemd/systemd-socket-proxyd --connections-max=128 ${target}";
        DynamicUser = true;
        Slice = "aistack.slice";
        MemoryMax = "64M";
        TasksMax = 16;
      };
  };

  confinedTempo = {
    # It is never given up.
    unitConfig.StartLimitIntervalSec = mkDefault 0;
    serviceConfig = lib.mapAttrs (_: mkDefault) {
      # Upstream's unit is confined less than ours are.
      CapabilityBoundingSet = "";
      IPAddressAllow = "localhost";
      IPAddressDeny = "any";
      LockPersonality = true;
      MemoryDenyWriteExecute = true;
      PrivateDevices = true;
      PrivateUsers = true;
      ProtectClock = true;
      ProtectControlGroups = true;
      ProtectHome = true;
      ProtectHostname = true;
      ProtectKernelLogs = true;
      ProtectKernelModules = true;
      ProtectKernelTunables = true;
      RestrictNamespaces = true;
      RestrictRealtime = true;
      RestrictSUIDSGID = true;
      RestartSec = 5;
      SystemCallArchitectures = "native";
      UMask = "0077";
    };
  };
in
{
  options.services.aistack.tracing = {
    enable = mkOption {
      type = types.bool;
      default = cfg.prometheus.enable || own.endpoint != null;
      defaultText = lib.literalMD "whether this machine is monitored or an endpoint is given";
      description = ''
        Whether services record traces: one span for each request, each call of a dependency and each
        phase of work. It costs memory and disk for Tempo, unless an endpoint is given.
      '';
    };
    endpoint = mkOption {
      type = types.nullOr (types.strMatching "unix:/.+|http://[^/@]+:[0-9]+|https://[^@]*");
      default = null;
      example = "http://10.0.0.5:4317";
      description = ''
        Where traces go: OTLP over gRPC, `http://host:port` or `unix:/path`. null is a Tempo on this
        machine. With `unix:/path`, the group of that socket must be in
        {option}`services.aistack.tracing.group`.
      '';
    };
    group = mkOption {
      type = types.str;
      default = group;
      description = "Group that may write to the socket of traces; every service is a member.";
    };
    sampleRatio = mkOption {
      type = types.numbers.between 0 1;
      default = 1.0;
      description = "Share of the traces that are recorded, 0 to 1.";
    };
    retention = mkOption {
      type = types.strMatching "[0-9]+h";
      default = "336h";
      description = "How long Tempo keeps traces, in hours, such as `336h`; the disk use grows with it.";
    };
    httpPort = mkOption {
      type = types.port;
      default = 3200;
      description = "Port of Tempo's queries, on loopback.";
    };
    otlpPort = mkOption {
      type = types.port;
      default = 4317;
      description = "Port of Tempo's OTLP receiver, on loopback. Other collectors like it too.";
    };
  };

  config = mkIf (cfg.enable && own.enable) {
    assertions = [
      {
        assertion = own.endpoint == null || !lib.hasPrefix "https://" own.endpoint;
        message = ''
          services.aistack.tracing.endpoint: services without a network speak plain OTLP to a socket,
          so TLS is for a collector on this machine: run services.opentelemetry-collector with an
          exporter to ${toString own.endpoint}, and set
          services.aistack.tracing.endpoint = "http://127.0.0.1:4317".
        '';
      }
    ];

    services.aistack.settings.tracing = {
      endpoint = mkDefault (if toUnix then own.endpoint else "unix://${socket}");
      sample_ratio = mkDefault own.sampleRatio;
    };
    services.aistack.serviceGroups = [ own.group ];

    users.groups = mkIf (!toUnix) { ${own.group} = { }; };

    systemd.sockets.aistack-otlp = mkIf (!toUnix) {
      description = "Traces of the AI stack";
      wantedBy = [
        "sockets.target"
        "aistack.target"
      ];
      partOf = [ "aistack.target" ];
      listenStreams = [ socket ];
      socketConfig = {
        SocketMode = "0660";
        SocketGroup = own.group;
        DirectoryMode = "0755";
      };
    };

    systemd.services = lib.mkMerge [
      # Stopped together, the services end first, so that the spans of their last requests arrive.
      (mkIf (!toUnix) (
        lib.genAttrs services (_: {
          after = [
            "aistack-otlp.socket"
            "aistack-otlp.service"
          ];
        })
      ))
      {
        aistack-otlp = mkIf (!toUnix) proxy;
        tempo = mkIf tempo confinedTempo;
      }
    ];

    services.tempo = mkIf tempo {
      enable = mkDefault true;
      settings = {
        server = {
          http_listen_address = mkDefault loopback;
          http_listen_port = mkDefault own.httpPort;
          grpc_listen_address = mkDefault loopback;
          grpc_listen_port = mkDefault 9095;
        };
        distributor = {
          receivers.otlp.protocols.grpc.endpoint = mkDefault "${loopback}:${toString own.otlpPort}";
          ring.instance_addr = mkDefault loopback;
        };
        storage.trace = {
          backend = mkDefault "local";
          local.path = mkDefault "/var/lib/tempo/blocks";
          wal.path = mkDefault "/var/lib/tempo/wal";
        };
        overrides.defaults.compaction.block_retention = mkDefault own.retention;
        # One instance: its ring listens to nobody.
        memberlist = {
          bind_addr = mkDefault [ loopback ];
          advertise_addr = mkDefault loopback;
        };
        # Each ring looks for an address of its own, among the private ones of the machine, and ends
        # the start where there is none (grafana/tempo#3590). Keys: docs/sources/tempo/configuration/
        # manifest.md and modules/ of grafana/tempo at v2.10.0 and v3.0.2. An unknown key is refused,
        # and 3 has neither ingester nor compactor.
        metrics_generator.ring.instance_addr = mkDefault loopback;
        backend_worker.ring.instance_addr = mkDefault loopback;
        live_store = {
          ring.instance_addr = mkDefault loopback;
          # By default below /var/tempo, which the unit may not write to.
          wal.path = mkDefault "/var/lib/tempo/live-store/traces";
          shutdown_marker_dir = mkDefault "/var/lib/tempo/live-store/shutdown-marker";
        };
        backend_scheduler.local_work_path = mkDefault "/var/lib/tempo/work";
        usage_report.reporting_enabled = mkDefault false;
      }
      // lib.optionalAttrs (lib.versionOlder pkgs.tempo.version "3") {
        ingester.lifecycler.address = mkDefault loopback;
        compactor.ring.instance_addr = mkDefault loopback;
      };
    };
  };
}
