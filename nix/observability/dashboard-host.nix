# The machine, nginx, units and backups.
{
  lib,
  dashboard,
  graph,
  stat,
  node,
  disk,
  tempo,
}:
dashboard {
  uid = "aistack-host";
  title = "aistack: host";
  rows = [
    {
      title = "Machine";
      panels = [
        (graph {
          title = "Processor";
          unit = "percentunit";
          max = 1;
          queries = [
            {
              expr = ''1 - avg by (instance) (rate(node_cpu_seconds_total{${node},mode="idle"}[5m]))'';
              legend = "{{instance}}";
            }
          ];
        })
        (graph {
          title = "Memory";
          unit = "bytes";
          queries = [
            {
              expr = "node_memory_MemTotal_bytes{${node}} - node_memory_MemAvailable_bytes{${node}}";
              legend = "{{instance}} used";
            }
            {
              expr = "node_memory_MemTotal_bytes{${node}}";
              legend = "{{instance}} there is";
            }
          ];
        })
        (graph {
          title = "Disks";
          unit = "percentunit";
          max = 1;
          queries = [
            {
              expr = "1 - node_filesystem_avail_bytes{${disk}} / node_filesystem_size_bytes{${disk}}";
              legend = "{{instance}} {{mountpoint}}";
            }
          ];
        })
        (graph {
          title = "Reads and writes";
          unit = "Bps";
          queries = [
            {
              expr = "sum by (instance, device) (rate(node_disk_read_bytes_total{${node}}[5m]))";
              legend = "{{device}} read";
            }
            {
              expr = "sum by (instance, device) (rate(node_disk_written_bytes_total{${node}}[5m]))";
              legend = "{{device}} written";
            }
          ];
        })
        (graph {
          title = "Pressure (share of time that work waits)";
          unit = "percentunit";
          queries = [
            {
              expr = "rate(node_pressure_cpu_waiting_seconds_total{${node}}[5m])";
              legend = "processor";
            }
            {
              expr = "rate(node_pressure_memory_waiting_seconds_total{${node}}[5m])";
              legend = "memory";
            }
            {
              expr = "rate(node_pressure_io_waiting_seconds_total{${node}}[5m])";
              legend = "disk";
            }
          ];
        })
        (graph {
          title = "Load";
          queries = [
            {
              expr = "node_load1{${node}}";
              legend = "{{instance}}";
            }
          ];
        })
      ];
    }
    {
      title = "nginx";
      panels = [
        (graph {
          title = "Requests";
          unit = "reqps";
          queries = [
            {
              expr = ''rate(nginx_http_requests_total{job="aistack-nginx"}[5m])'';
              legend = "requests";
            }
          ];
        })
        (graph {
          title = "Connections";
          queries = map
            (state: {
              expr = ''nginx_connections_${state}{job="aistack-nginx"}'';
              legend = state;
            })
            [
              "active"
              "reading"
              "writing"
              "waiting"
            ];
        })
        (stat {
          title = "Certificate expires in";
          unit = "s";
          queries = [ { expr = ''min (probe_ssl_earliest_cert_expiry{job="aistack-front"}) - time()''; } ];
        })
      ];
    }
    {
      title = "Units and backups";
      panels = [
        (graph {
          title = "Restarts in an hour";
          queries = [
            {
              expr = ''increase(systemd_service_restart_total{job="aistack-systemd",name=~"aistack-.+"}[1h]) > 0'';
              legend = "{{name}}";
            }
          ];
        })
        (stat {
          title = "Age of the newest good backup";
          unit = "s";
          queries = [ { expr = "time() - aistack_backup_last_success_timestamp_seconds"; } ];
        })
        (graph {
          title = "Size of the newest good backup";
          unit = "bytes";
          queries = [ { expr = "aistack_backup_size_bytes"; } ];
        })
        (graph {
          title = "Duration of the newest good backup";
          unit = "s";
          queries = [ { expr = "aistack_backup_duration_seconds"; } ];
        })
      ];
    }
  ]
  ++ lib.optional tempo {
    title = "Traces";
    panels = [
      {
        type = "table";
        title = "Requests that took longer than a second";
        datasource = {
          type = "tempo";
          uid = "aistack-tempo";
        };
        options = { };
        fieldConfig = {
          defaults = { };
          overrides = [ ];
        };
        targets = [
          {
            datasource = {
              type = "tempo";
              uid = "aistack-tempo";
            };
            queryType = "traceql";
            query = "{ duration > 1s && kind = server }";
            limit = 20;
            tableType = "traces";
            refId = "A";
          }
        ];
      }
    ];
  };
}
