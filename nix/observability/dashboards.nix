# Dashboards, generated from the stack's table: { <name> = <Grafana's JSON as a Nix value>; }.
# A test proves that every query names only metrics that exist.
{
  lib,
  # Names of the services that are scraped.
  services,
  tempo ? true,
  gpu ? false,
}:
let
  inherit (import ./panels.nix { inherit lib; }) dashboard graph stat;

  # Probes are no requests of users.
  work = ''job="aistack",route!~"/(livez|readyz|metrics)"'';
  node = ''job="aistack-node"'';
  disk = ''${node},fstype!~"tmpfs|ramfs|overlay|squashfs"'';
  postgres = ''job="aistack-postgres"'';
  redis = ''job="aistack-redis"'';

  quantile =
    q: metric: selector: by:
    "histogram_quantile(${q}, sum by (le, ${by}) (rate(${metric}_bucket{${selector}}[5m])))";

  # Rate, errors, duration of one service.
  red =
    service:
    let
      of = ''${work},service="${service}"'';
    in
    {
      title = service;
      panels = [
        (graph {
          title = "Requests";
          unit = "reqps";
          queries = [
            {
              expr = "sum by (route) (rate(aistack_http_requests_total{${of}}[5m]))";
              legend = "{{route}}";
            }
          ];
        })
        (graph {
          title = "Answers that are errors, refused or broken off";
          unit = "reqps";
          queries = [
            {
              expr = ''sum by (status) (rate(aistack_http_requests_total{${of},status=~"4..|5..|aborted"}[5m]))'';
              legend = "{{status}}";
            }
            {
              expr = ''sum by (reason) (rate(aistack_http_refused_total{job="aistack",service="${service}"}[5m]))'';
              legend = "refused: {{reason}}";
            }
          ];
        })
        (graph {
          title = "Duration";
          unit = "s";
          queries = map
            (q: {
              expr = quantile q "aistack_http_request_seconds" of "service";
              legend = "p${lib.removePrefix "0." q}";
            })
            [
              "0.5"
              "0.95"
              "0.99"
            ];
        })
      ];
    };
in
{
  overview = dashboard {
    uid = "aistack-overview";
    title = "aistack: overview";
    rows = [
      {
        title = "State";
        panels = [
          (stat {
            title = "Ready";
            queries = [
              {
                expr = ''probe_success{job="aistack-ready"}'';
                legend = "{{service}}";
              }
            ];
            max = 1;
          })
          (stat {
            title = "Alerts that fire";
            queries = [
              { expr = ''count(ALERTS{alertname=~"Aistack.+",alertstate="firing"}) or vector(0)''; }
            ];
          })
          (stat {
            title = "Error ratio of the last hour";
            unit = "percentunit";
            queries = [
              {
                expr = "aistack:http_errors:ratio_rate1h";
                legend = "{{service}}";
              }
            ];
          })
          (graph {
            title = "Needs that are down";
            queries = [
              {
                expr = "1 - aistack_need_up";
                legend = "{{service}}: {{need}} ({{kind}})";
              }
            ];
            max = 1;
          })
          (graph {
            title = "Breakers (0 closed, 1 half open, 2 open)";
            queries = [
              {
                expr = "aistack_dependency_breaker_state";
                legend = "{{service}}: {{dependency}}";
              }
            ];
            max = 2;
          })
          (graph {
            title = "Memory";
            unit = "bytes";
            queries = [
              {
                expr = ''process_resident_memory_bytes{job="aistack"}'';
                legend = "{{service}}";
              }
            ];
          })
          (graph {
            title = "Processor";
            unit = "short";
            description = "Cores in use.";
            queries = [
              {
                expr = ''rate(process_cpu_seconds_total{job="aistack"}[5m])'';
                legend = "{{service}}";
              }
            ];
          })
          (graph {
            title = "Calls to dependencies that did not succeed";
            unit = "reqps";
            queries = [
              {
                expr = ''sum by (service, dependency, outcome) (rate(aistack_dependency_calls_total{outcome!="ok"}[5m]))'';
                legend = "{{service}}: {{dependency}} {{outcome}}";
              }
            ];
          })
          (graph {
            title = "Calls to dependencies, 95th percentile";
            unit = "s";
            queries = [
              {
                expr = quantile "0.95" "aistack_dependency_call_seconds" ''job="aistack"'' "service, dependency";
                legend = "{{service}}: {{dependency}}";
              }
            ];
          })
        ];
      }
    ]
    ++ map red (lib.sort lib.lessThan services);
  };

  retrieval = import ./dashboard-retrieval.nix {
    inherit
      dashboard
      graph
      stat
      quantile
      ;
  };

  llm = import ./dashboard-llm.nix {
    inherit
      lib
      dashboard
      graph
      quantile
      gpu
      ;
  };

  stores = import ./dashboard-stores.nix { inherit dashboard graph stat postgres redis; };
  host = import ./dashboard-host.nix { inherit lib dashboard graph stat node disk tempo; };
}
