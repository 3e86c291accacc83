# PostgreSQL and Redis.
{
  dashboard,
  graph,
  stat,
  postgres,
  redis,
}:
dashboard {
  uid = "aistack-stores";
  title = "aistack: PostgreSQL and Redis";
  rows = [
    {
      title = "PostgreSQL";
      panels = [
        (stat {
          title = "Up";
          queries = [ { expr = "pg_up{${postgres}}"; } ];
          max = 1;
        })
        (graph {
          title = "Connections";
          queries = [
            {
              expr = "sum by (datname, state) (pg_stat_activity_count{${postgres}}) > 0";
              legend = "{{datname}} {{state}}";
            }
            {
              expr = "max (pg_settings_max_connections{${postgres}})";
              legend = "limit";
            }
          ];
        })
        (graph {
          title = "Transactions";
          unit = "ops";
          queries = [
            {
              expr = "sum by (datname) (rate(pg_stat_database_xact_commit{${postgres}}[5m]))";
              legend = "{{datname}} committed";
            }
            {
              expr = "sum by (datname) (rate(pg_stat_database_xact_rollback{${postgres}}[5m]))";
              legend = "{{datname}} rolled back";
            }
          ];
        })
        (graph {
          title = "Blocks found in the buffers";
          unit = "percentunit";
          max = 1;
          queries = [
            {
              expr = "sum by (datname) (rate(pg_stat_database_blks_hit{${postgres}}[5m])) / (sum by (datname) (rate(pg_stat_database_blks_hit{${postgres}}[5m])) + sum by (datname) (rate(pg_stat_database_blks_read{${postgres}}[5m])))";
              legend = "{{datname}}";
            }
          ];
        })
        (graph {
          title = "Size";
          unit = "bytes";
          queries = [
            {
              expr = "pg_database_size_bytes{${postgres}}";
              legend = "{{datname}}";
            }
          ];
        })
        (graph {
          title = "Deadlocks, temporary files";
          unit = "ops";
          queries = [
            {
              expr = "sum by (datname) (rate(pg_stat_database_deadlocks{${postgres}}[5m]))";
              legend = "{{datname}} deadlocks";
            }
            {
              expr = "sum by (datname) (rate(pg_stat_database_temp_files{${postgres}}[5m]))";
              legend = "{{datname}} temporary files";
            }
          ];
        })
      ];
    }
    {
      title = "Redis";
      panels = [
        (stat {
          title = "Up";
          queries = [ { expr = "redis_up{${redis}}"; } ];
          max = 1;
        })
        (graph {
          title = "Memory";
          unit = "bytes";
          queries = [
            {
              expr = "redis_memory_used_bytes{${redis}}";
              legend = "used";
            }
            {
              expr = "redis_memory_max_bytes{${redis}}";
              legend = "limit";
            }
          ];
        })
        (graph {
          title = "Commands";
          unit = "ops";
          queries = [
            {
              expr = "rate(redis_commands_processed_total{${redis}}[5m])";
              legend = "commands";
            }
          ];
        })
        (graph {
          title = "Look-ups";
          unit = "ops";
          queries = [
            {
              expr = "rate(redis_keyspace_hits_total{${redis}}[5m])";
              legend = "found";
            }
            {
              expr = "rate(redis_keyspace_misses_total{${redis}}[5m])";
              legend = "not found";
            }
          ];
        })
        (graph {
          title = "Entries that went";
          unit = "ops";
          queries = [
            {
              expr = "rate(redis_evicted_keys_total{${redis}}[5m])";
              legend = "for lack of memory";
            }
            {
              expr = "rate(redis_expired_keys_total{${redis}}[5m])";
              legend = "by their time";
            }
          ];
        })
        (graph {
          title = "Clients";
          queries = [
            {
              expr = "redis_connected_clients{${redis}}";
              legend = "connected";
            }
          ];
        })
      ];
    }
  ];
}
