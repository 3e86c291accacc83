# Chat, llama.cpp, GPUs.
{
  lib,
  dashboard,
  graph,
  quantile,
  gpu,
}:
let
  llama = ''job="aistack-llama"'';
in
dashboard {
  uid = "aistack-llm";
  title = "aistack: language model";
  rows = [
    {
      title = "Chat";
      panels = [
        (graph {
          title = "Tokens";
          unit = "ops";
          queries = [
            {
              expr = "sum by (model, direction) (rate(aistack_chat_tokens_total[5m]))";
              legend = "{{model}} {{direction}}";
            }
          ];
        })
        (graph {
          title = "Time to the first token";
          unit = "s";
          queries = map
            (q: {
              expr = quantile q "aistack_chat_first_token_seconds" ''job="aistack"'' "model";
              legend = "{{model}} p${lib.removePrefix "0." q}";
            })
            [
              "0.5"
              "0.95"
            ];
        })
        (graph {
          title = "Answers";
          unit = "ops";
          queries = [
            {
              expr = "sum by (model, outcome) (rate(aistack_chat_answers_total[5m]))";
              legend = "{{model}}: {{outcome}}";
            }
          ];
        })
        (graph {
          title = "Grounded claims, mean";
          unit = "percentunit";
          max = 1;
          queries = [
            {
              expr = "sum (rate(aistack_chat_grounded_ratio_sum[30m])) / sum (rate(aistack_chat_grounded_ratio_count[30m]))";
              legend = "grounded";
            }
          ];
        })
        (graph {
          title = "Citations";
          unit = "ops";
          queries = [
            {
              expr = "rate(aistack_chat_citations_total[5m])";
              legend = "given";
            }
            {
              expr = "rate(aistack_chat_inexact_passages_total[5m])";
              legend = "inexact passages, not cited";
            }
          ];
        })
      ];
    }
    {
      title = "llama.cpp";
      panels = [
        (graph {
          title = "Tokens";
          unit = "ops";
          queries = [
            {
              expr = "rate(llamacpp:prompt_tokens_total{${llama}}[5m])";
              legend = "{{llama}} prompt";
            }
            {
              expr = "rate(llamacpp:tokens_predicted_total{${llama}}[5m])";
              legend = "{{llama}} predicted";
            }
          ];
        })
        (graph {
          title = "Requests";
          queries = [
            {
              expr = "llamacpp:requests_processing{${llama}}";
              legend = "{{llama}} at work";
            }
            {
              expr = "llamacpp:requests_deferred{${llama}}";
              legend = "{{llama}} waiting";
            }
          ];
        })
        (graph {
          title = "Speed of one request";
          unit = "ops";
          description = "Tokens a second.";
          queries = [
            {
              expr = "llamacpp:predicted_tokens_seconds{${llama}}";
              legend = "{{llama}} predicted";
            }
            {
              expr = "llamacpp:prompt_tokens_seconds{${llama}}";
              legend = "{{llama}} prompt";
            }
          ];
        })
      ];
    }
  ]
  ++ lib.optional gpu {
    title = "GPU";
    panels = [
      (graph {
        title = "Load";
        unit = "percentunit";
        max = 1;
        queries = [
          {
            expr = ''nvidia_smi_utilization_gpu_ratio{job="aistack-nvidia-gpu"}'';
            legend = "{{uuid}}";
          }
        ];
      })
      (graph {
        title = "Memory";
        unit = "bytes";
        queries = [
          {
            expr = ''nvidia_smi_memory_used_bytes{job="aistack-nvidia-gpu"}'';
            legend = "{{uuid}} used";
          }
          {
            expr = ''nvidia_smi_memory_total_bytes{job="aistack-nvidia-gpu"}'';
            legend = "{{uuid}} there is";
          }
        ];
      })
      (graph {
        title = "Temperature";
        unit = "celsius";
        queries = [
          {
            expr = ''nvidia_smi_temperature_gpu{job="aistack-nvidia-gpu"}'';
            legend = "{{uuid}}";
          }
        ];
      })
    ];
  };
}
