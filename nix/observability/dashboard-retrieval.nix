# Search, ingestion, embeddings.
{
  dashboard,
  graph,
  stat,
  quantile,
}:
dashboard {
  uid = "aistack-retrieval";
  title = "aistack: retrieval and ingestion";
  rows = [
    {
      title = "Search";
      panels = [
        (graph {
          title = "Searches";
          unit = "reqps";
          queries = [
            {
              expr = "sum by (mode, cached) (rate(aistack_aidb_searches_total[5m]))";
              legend = "{{mode}}, cached: {{cached}}";
            }
          ];
        })
        (graph {
          title = "Phases of a search, 95th percentile";
          unit = "s";
          queries = [
            {
              expr = quantile "0.95" "aistack_aidb_search_seconds" ''job="aistack"'' "phase";
              legend = "{{phase}}";
            }
          ];
        })
        (graph {
          title = "Search cache";
          unit = "reqps";
          queries = [
            {
              expr = "sum by (outcome) (rate(aistack_aidb_search_cache_total[5m]))";
              legend = "{{outcome}}";
            }
            {
              expr = "sum(rate(aistack_aidb_searches_held_total[5m]))";
              legend = "hits from memory";
            }
          ];
        })
      ];
    }
    {
      title = "Ingestion";
      panels = [
        (graph {
          title = "Documents not yet ready";
          queries = [
            {
              expr = "sum by (state) (aistack_aidb_queue_documents)";
              legend = "{{state}}";
            }
          ];
        })
        (graph {
          title = "Jobs by outcome";
          unit = "ops";
          queries = [
            {
              expr = "sum by (outcome) (rate(aistack_aidb_ingested_documents_total[5m]))";
              legend = "{{outcome}}";
            }
            {
              expr = "rate(aistack_aidb_ingested_chunks_total[5m])";
              legend = "chunks";
            }
            {
              expr = "sum by (how) (rate(aistack_aidb_parsers_ended_total[5m]))";
              legend = "parser: {{how}}";
            }
          ];
        })
        (graph {
          title = "Phases of a job, 95th percentile";
          unit = "s";
          queries = [
            {
              expr = quantile "0.95" "aistack_aidb_ingest_seconds" ''job="aistack"'' "phase";
              legend = "{{phase}}";
            }
          ];
        })
        (stat {
          title = "Chunks that can be found";
          queries = [ { expr = "aistack_aidb_chunks"; } ];
        })
      ];
    }
    {
      title = "Embeddings";
      panels = [
        (graph {
          title = "Texts";
          unit = "ops";
          queries = [
            {
              expr = "sum by (source) (rate(aistack_embeddings_texts_total[5m]))";
              legend = "{{source}}";
            }
          ];
        })
        (graph {
          title = "Tokens";
          unit = "ops";
          queries = [
            {
              expr = "rate(aistack_embeddings_tokens_total[5m])";
              legend = "encoded";
            }
            {
              expr = "rate(aistack_embeddings_padded_tokens_total[5m])";
              legend = "with padding";
            }
          ];
        })
        (graph {
          title = "Forward passes";
          unit = "s";
          queries = [
            {
              expr = quantile "0.95" "aistack_embeddings_pass_seconds" ''job="aistack"'' "service";
              legend = "p95";
            }
          ];
        })
        (graph {
          title = "Phases of a request, 95th percentile";
          unit = "s";
          queries = [
            {
              expr = quantile "0.95" "aistack_embeddings_phase_seconds" ''job="aistack"'' "phase";
              legend = "{{phase}}";
            }
          ];
        })
        (graph {
          title = "Texts that wait, lanes that encode";
          queries = [
            {
              expr = "aistack_embeddings_queue_texts";
              legend = "texts";
            }
            {
              expr = "aistack_embeddings_lanes";
              legend = "lanes";
            }
          ];
        })
        (graph {
          title = "Vector cache";
          unit = "ops";
          queries = [
            {
              expr = "sum by (outcome) (rate(aistack_embeddings_cache_total[5m]))";
              legend = "{{outcome}}";
            }
          ];
        })
        (graph {
          title = "Failed passes, truncated texts";
          unit = "ops";
          queries = [
            {
              expr = ''sum (rate(aistack_embeddings_passes_total{outcome="failed"}[5m]))'';
              legend = "failed passes";
            }
            {
              expr = "rate(aistack_embeddings_truncated_total[5m])";
              legend = "truncated texts";
            }
          ];
        })
      ];
    }
  ];
}
