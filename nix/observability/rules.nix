# Recording and alerting rules, generated from the stack's table. Every alert names only metrics
# that exist and has a promtool unit test (tests/nix/test_observability.py proves both).
#
#   import ./rules.nix { inherit lib; services = [ "aidb" … ]; … }  ->  { groups = [ … ]; }
#
# The value is Prometheus' rule file; builtins.toJSON of it is valid YAML.
{
  lib,
  # Names of the services that are scraped.
  services,
  # { availability, latency, latencySeconds.<service>, minRequests }
  slo,
  # Bytes that a service may use, by service; a service without a limit is left out.
  memoryLimits ? { },
  # Seconds after which a backup is too old; null where no backups are made.
  backupMaxAge ? null,
  # Whether nginx serves a certificate of ours.
  certificates ? true,
  runbookUrl ? "docs/operations.md",
}:
let
  alert =
    name:
    {
      expr,
      severity,
      summary,
      description,
      for ? "0m",
      labels ? { },
    }:
    {
      alert = name;
      expr = lib.replaceStrings [ "\n" ] [ " " ] (lib.trim expr);
      inherit for;
      labels = {
        inherit severity;
      }
      // labels;
      annotations = {
        inherit summary description;
        runbook_url = "${runbookUrl}#${lib.toLower name}";
      };
    };

  group = name: rules: {
    name = "aistack-${name}";
    # Of the group, so that the host's global interval stays what it is.
    interval = "30s";
    rules = lib.mapAttrsToList alert rules;
  };

  # Units that the stack depends on.
  units = "(aistack-.+|postgresql|redis-aistack|nginx|prometheus|alertmanager|grafana|tempo|qdrant)[.]service";
in
{
  groups = import ./slo.nix { inherit lib services slo alert; } ++ [
    (group "services" {
      AistackServiceDown = {
        expr = ''up{job="aistack"} == 0'';
        for = "2m";
        severity = "critical";
        summary = "{{ $labels.service }} does not answer";
        description = "Prometheus has not been able to read the metrics of {{ $labels.service }} for two minutes.";
      };
      AistackServiceNotReady = {
        expr = ''probe_success{job="aistack-ready"} == 0'';
        for = "5m";
        severity = "critical";
        summary = "{{ $labels.service }} is not ready";
        description = "/readyz of {{ $labels.service }} has not been 200 for five minutes: it starts, drains, or misses something that it requires.";
      };
      AistackFrontDown = {
        expr = ''probe_success{job="aistack-front"} == 0'';
        for = "2m";
        severity = "critical";
        summary = "The front door does not lead to {{ $labels.service }}";
        description = "A request without a key to a route of {{ $labels.service }} should be answered 401 by nginx's upstream; it has not been for two minutes.";
      };
      AistackRequiredNeedDown = {
        expr = ''aistack_need_up{kind="required"} == 0'';
        for = "2m";
        severity = "critical";
        summary = "{{ $labels.service }} misses {{ $labels.need }}, which it requires";
        description = "The probe of {{ $labels.need }} by {{ $labels.service }} has failed for two minutes; it answers 503.";
      };
      AistackDegradingNeedDown = {
        expr = ''aistack_need_up{kind="degrades"} == 0'';
        for = "10m";
        severity = "warning";
        summary = "{{ $labels.service }} works without {{ $labels.need }}";
        description = "The probe of {{ $labels.need }} by {{ $labels.service }} has failed for ten minutes; what does not need it still works.";
      };
      AistackBreakerOpen = {
        expr = "max_over_time(aistack_dependency_breaker_state[2m]) == 2";
        for = "5m";
        severity = "warning";
        summary = "The breaker of {{ $labels.service }} to {{ $labels.dependency }} is open";
        description = "Calls of {{ $labels.service }} to {{ $labels.dependency }} have been refused for five minutes because the last ones failed.";
      };
      AistackWatchdogSkipped = {
        expr = "increase(aistack_watchdog_skipped_total[15m]) > 3";
        severity = "warning";
        summary = "{{ $labels.service }} withholds keep-alives";
        description = "A worker or the event loop of {{ $labels.service }} did not advance {{ $value | humanize }} times in 15 minutes; systemd kills a service that goes on like this.";
      };
      AistackRestartLoop = {
        expr = ''increase(systemd_service_restart_total{job="aistack-systemd",name=~"${units}"}[15m]) > 3'';
        severity = "critical";
        summary = "{{ $labels.name }} restarts again and again";
        description = "systemd has restarted {{ $labels.name }} {{ $value | humanize }} times in 15 minutes.";
      };
      AistackUnitFailed = {
        expr = ''systemd_unit_state{job="aistack-systemd",state="failed",name=~"${units}"} == 1'';
        for = "2m";
        severity = "critical";
        summary = "{{ $labels.name }} has failed";
        description = "systemd does not start {{ $labels.name }} again by itself, or not yet.";
      };
    })
    (group "work" {
      AistackQueueStuck = {
        expr = ''
          sum by (service) (aistack_aidb_queue_documents) > 0
          and sum by (service) (increase(aistack_aidb_ingested_documents_total{outcome=~"ready|failed|superseded"}[15m])) == 0
        '';
        for = "15m";
        severity = "warning";
        summary = "Documents wait and none gets ready";
        description = "{{ $value | humanize }} documents wait for ingestion and for half an hour no job has come to its end.";
      };
      AistackIngestionFailing = {
        expr = ''
          sum by (service) (increase(aistack_aidb_ingested_documents_total{outcome="failed"}[15m])) > 5
          and sum by (service) (increase(aistack_aidb_ingested_documents_total{outcome="failed"}[15m]))
          / sum by (service) (increase(aistack_aidb_ingested_documents_total{outcome=~"ready|failed"}[15m])) > 0.1
        '';
        severity = "warning";
        summary = "More than a tenth of the documents fails";
        description = "{{ $value | humanize }} documents could not be ingested in 15 minutes.";
      };
      AistackEmbeddingFailing = {
        expr = ''sum by (service) (increase(aistack_embeddings_passes_total{outcome="failed"}[10m])) > 3'';
        severity = "warning";
        summary = "The encoder fails";
        description = "{{ $value | humanize }} forward passes failed in ten minutes; their texts were answered with an error.";
      };
      AistackIndexDrift = {
        expr = "sum by (service) (aistack_aidb_index_drift) > 0";
        for = "35m";
        severity = "warning";
        summary = "Qdrant does not stay what PostgreSQL says";
        description = "Four comparisons in a row have found and mended points of Qdrant, {{ $value | humanize }} of them in the last: something else writes to it, or it loses what it acknowledged.";
      };
      AistackIndexStuck = {
        expr = ''
          sum by (service) (aistack_aidb_index_open_changes) > 0
          unless sum by (service) (increase(aistack_aidb_index_changes_total{outcome="done"}[15m])) > 0
        '';
        for = "15m";
        severity = "warning";
        summary = "Changes do not reach Qdrant";
        description = "For half an hour Qdrant has been told of no change, and some wait. Searches are right meanwhile, and slower.";
      };
      AistackSearchWithoutQdrant = {
        expr = ''
          sum by (service) (increase(aistack_aidb_dense_searches_total{outcome=~"away|lost|incomplete"}[15m])) > 5
          and sum by (service) (increase(aistack_aidb_dense_searches_total{outcome=~"away|lost|incomplete"}[15m]))
          / sum by (service) (increase(aistack_aidb_dense_searches_total[15m])) > 0.1
        '';
        for = "10m";
        severity = "warning";
        summary = "pgvector answers what Qdrant should";
        description = "{{ $value | humanize }} dense searches of 15 minutes were answered by pgvector because Qdrant was away, had lost the collection or gave what does not stand.";
      };
      AistackLlamaDown = {
        expr = ''up{job="aistack-llama"} == 0'';
        for = "5m";
        severity = "critical";
        summary = "llama.cpp ({{ $labels.llama }}) does not answer";
        description = "The language model {{ $labels.llama }} has not been reachable for five minutes; chat answers 503.";
      };
    })
    (group "stores" {
      AistackPostgresDown = {
        expr = ''pg_up{job="aistack-postgres"} == 0 or up{job="aistack-postgres"} == 0'';
        for = "1m";
        severity = "critical";
        summary = "PostgreSQL does not answer";
        description = "Neither documents nor searches work without it.";
      };
      AistackPostgresConnections = {
        expr = ''
          sum by (instance) (pg_stat_activity_count{job="aistack-postgres"})
          / on (instance) max by (instance) (pg_settings_max_connections{job="aistack-postgres"}) > 0.8
        '';
        for = "5m";
        severity = "warning";
        summary = "PostgreSQL is near its limit of connections";
        description = "{{ $value | humanizePercentage }} of max_connections are in use.";
      };
      AistackRedisDown = {
        expr = ''redis_up{job="aistack-redis"} == 0 or up{job="aistack-redis"} == 0'';
        for = "2m";
        severity = "warning";
        summary = "Redis does not answer";
        description = "Nothing is lost; vectors and searches are computed again.";
      };
    })
    (group "host" (
      {
        AistackDiskFilling = {
          expr = ''
            node_filesystem_avail_bytes{job="aistack-node",fstype!~"tmpfs|ramfs|overlay|squashfs"}
            / node_filesystem_size_bytes{job="aistack-node",fstype!~"tmpfs|ramfs|overlay|squashfs"} < 0.25
            and predict_linear(node_filesystem_avail_bytes{job="aistack-node",fstype!~"tmpfs|ramfs|overlay|squashfs"}[6h], 86400) < 0
          '';
          for = "30m";
          severity = "warning";
          summary = "{{ $labels.mountpoint }} will be full within a day";
          description = "{{ $value | humanizePercentage }} of {{ $labels.mountpoint }} is free and it shrinks.";
        };
        AistackDiskAlmostFull = {
          expr = ''
            node_filesystem_avail_bytes{job="aistack-node",fstype!~"tmpfs|ramfs|overlay|squashfs"}
            / node_filesystem_size_bytes{job="aistack-node",fstype!~"tmpfs|ramfs|overlay|squashfs"} < 0.05
          '';
          for = "5m";
          severity = "critical";
          summary = "{{ $labels.mountpoint }} is almost full";
          description = "{{ $value | humanizePercentage }} of {{ $labels.mountpoint }} is free. PostgreSQL stops at a full disk.";
        };
        AistackHostMemoryLow = {
          expr = ''node_memory_MemAvailable_bytes{job="aistack-node"} / node_memory_MemTotal_bytes{job="aistack-node"} < 0.05'';
          for = "10m";
          severity = "warning";
          summary = "The host is short of memory";
          description = "{{ $value | humanizePercentage }} of the memory is available.";
        };
        AistackTargetDown = {
          expr = ''up{job=~"aistack-.+",job!~"aistack-(ready|front|llama|postgres|redis)"} == 0'';
          for = "10m";
          severity = "warning";
          summary = "{{ $labels.job }} cannot be scraped";
          description = "What {{ $labels.job }} tells is missing, and alerts on it are blind.";
        };
        AistackRulesFailing = {
          expr = ''increase(prometheus_rule_evaluation_failures_total{job="aistack-prometheus"}[10m]) > 0'';
          severity = "warning";
          summary = "Prometheus cannot evaluate a rule";
          description = "The rule group {{ $labels.rule_group }} fails; see the journal of prometheus.service.";
        };
        AistackAlertsNotDelivered = {
          expr = ''increase(alertmanager_notifications_failed_total{job="aistack-alertmanager"}[10m]) > 0'';
          for = "10m";
          severity = "warning";
          summary = "Alertmanager cannot deliver by {{ $labels.integration }}";
          description = "Notifications by {{ $labels.integration }} fail; see the journal of alertmanager.service.";
        };
      }
      // lib.optionalAttrs (memoryLimits != { }) {
        AistackMemoryNearLimit = {
          expr = ''process_resident_memory_bytes{job="aistack"} / on (service) group_left () aistack:memory_limit_bytes > 0.9'';
          for = "10m";
          severity = "warning";
          summary = "{{ $labels.service }} is near its memory limit";
          description = "{{ $labels.service }} uses {{ $value | humanizePercentage }} of MemoryMax; at the limit the kernel ends it.";
        };
      }
      // lib.optionalAttrs certificates {
        AistackCertificateExpiring = {
          expr = ''min by (instance) (probe_ssl_earliest_cert_expiry{job="aistack-front"}) - time() < 14 * 86400'';
          for = "1h";
          severity = "warning";
          summary = "The certificate expires soon";
          description = "The certificate that nginx serves expires in {{ $value | humanizeDuration }}; ACME renews a month before.";
        };
      }
      // lib.optionalAttrs (backupMaxAge != null) {
        AistackBackupTooOld = {
          expr = "time() - aistack_backup_last_success_timestamp_seconds > ${toString backupMaxAge}";
          severity = "critical";
          summary = "The newest good backup is too old";
          description = "The newest good backup is {{ $value | humanizeDuration }} old.";
        };
        AistackBackupFailed = {
          expr = "aistack_backup_last_run_success == 0";
          severity = "warning";
          summary = "The last backup failed";
          description = "See the journal of aistack-backup.service. Older backups are kept.";
        };
        AistackBackupMissing = {
          expr = ''absent(aistack_backup_last_success_timestamp_seconds) and on () up{job="aistack-node"} == 1'';
          for = "1d";
          severity = "critical";
          summary = "No backup has ever succeeded here";
          description = "Backups are on, and for a day there has been none.";
        };
      }
    ))
  ]
  ++ lib.optional (memoryLimits != { }) {
    name = "aistack-limits";
    interval = "30s";
    rules = lib.mapAttrsToList (service: bytes: {
      record = "aistack:memory_limit_bytes";
      expr = "vector(${toString bytes})";
      labels = { inherit service; };
    }) memoryLimits;
  };
}
