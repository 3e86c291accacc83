# Presets of language models, and which of them fits which machine.
#
# A hash stands here only if two unrelated public sources give it for the same file; they are named
# beside it (repository: path). Where that is not so the hash is null, and evaluation says what to
# set. Revisions are pinned, so that the file behind an address cannot change.
#
#   role             what the server is started for: chat, embedding or reranking
#   size             bytes of the file: for the check of the disk and for memoryMax
#   kvBytes          bytes of the key-value cache for one token at f16
#   contextSize      tokens of one request; parallel: requests at once
#   args             what this model needs besides
#   license          as the model card says
{
  profiles = {
    # 27 GB of memory, no GPU or an integrated one: a model of 4 billion parameters takes 2.5 GB and
    # leaves the processor some speed. Not measured on such a machine.
    laptop = {
      chat = "qwen3-4b-instruct-2507-q4_k_m";
      embedding = "qwen3-embedding-0.6b-q8_0";
      reranking = "bge-reranker-v2-m3-q8_0";
    };

    # One GPU with 24 GB: a mixture of experts, 30 billion parameters of which 3 are active. Not
    # measured on such a machine.
    gpu = {
      chat = "qwen3-30b-a3b-instruct-2507-q4_k_m";
      embedding = "qwen3-embedding-0.6b-q8_0";
      reranking = "bge-reranker-v2-m3-q8_0";
    };

    # One GPU with 80 GB. Not measured on such a machine.
    h100 = {
      chat = "qwen3.6-27b-q8_0";
      embedding = "qwen3-embedding-0.6b-q8_0";
      reranking = "bge-reranker-v2-m3-q8_0";
    };
  };

  presets = {
    # Not a reasoning model: its first token is the answer's first, which a processor needs.
    #   davislinyd/Lint: Tests/LintCoreTests/ModelCatalogTests.swift (with revision and size)
    #   fcarvajalbrown/MuniANCI: assistant/backend/models.manifest.json (with size, measured)
    "qwen3-4b-instruct-2507-q4_k_m" = {
      role = "chat";
      url = "https://huggingface.co/unsloth/Qwen3-4B-Instruct-2507-GGUF/resolve/a06e946bb6b655725eafa393f4a9745d460374c9/Qwen3-4B-Instruct-2507-Q4_K_M.gguf";
      # hex 3605803b982cb64aead44f6c1b2ae36e3acdb41d8e46c8a94c6533bc4c67e597
      hash = "sha256-NgWAO5gstkrq1E9sGyrjbjrNtB2ORsipTGUzvExn5Zc=";
      size = 2497281120;
      # 36 layers, 8 key-value heads of 128
      kvBytes = 147456;
      contextSize = 8192;
      parallel = 2;
      args = [ ];
      license = "Apache-2.0";
    };

    #   mudler/LocalAI: gallery/index.yaml
    #   wwjd4u/MeshAlot: docs/milestone12.md
    # The revision: docs of two further projects, with the same hash and size.
    "qwen3-30b-a3b-instruct-2507-q4_k_m" = {
      role = "chat";
      url = "https://huggingface.co/bartowski/Qwen_Qwen3-30B-A3B-Instruct-2507-GGUF/resolve/6c6e8692f43e4ca663f7ece8229a1361090d3a4c/Qwen_Qwen3-30B-A3B-Instruct-2507-Q4_K_M.gguf";
      # hex 382b4f5a164d200f93790ee0e339fae12852896d23485cfb203ce868fea33a95
      hash = "sha256-OCtPWhZNIA+TeQ7g4zn64ShSiW0jSFz7IDzoaP6jOpU=";
      size = 18632183808;
      # 48 layers, 4 key-value heads of 128
      kvBytes = 98304;
      contextSize = 8192;
      parallel = 4;
      args = [ ];
      license = "Apache-2.0";
    };

    # A reasoning model, told not to reason: the coordinator's answers are short, and thoughts would
    # use up their tokens.
    #   mudler/LocalAI: gallery/index.yaml
    #   README.md of the project that names itself Di-Chai/qw3 (with revision)
    "qwen3.6-27b-q8_0" = {
      role = "chat";
      url = "https://huggingface.co/unsloth/Qwen3.6-27B-GGUF/resolve/82d411acf4a06cfb8d9b073a5211bf410bfc29bf/Qwen3.6-27B-Q8_0.gguf";
      # hex f93f517f38e696d35a1a7df2c0e3155a64f4c4dcd662107a146ae263f7fb14ce
      hash = "sha256-+T9RfzjmltNaGn3ywOMVWmT0xNzWYhB6FGriY/f7FM4=";
      size = 28595763424;
      # 16 of 64 layers have one, with 4 key-value heads of 256
      kvBytes = 65536;
      contextSize = 32768;
      parallel = 8;
      args = [
        "--reasoning-budget"
        "0"
      ];
      license = "Apache-2.0";
    };

    # One source that can be named has the hash (Nexa-Language/SLIM-ARC: docs/guide/
    # model-artifacts.md), and it names another revision than the rest: not good enough.
    "qwen3-next-80b-a3b-instruct-q4_k_m" = {
      role = "chat";
      url = "https://huggingface.co/Qwen/Qwen3-Next-80B-A3B-Instruct-GGUF/resolve/main/Qwen3-Next-80B-A3B-Instruct-Q4_K_M.gguf";
      hash = null;
      size = 48410988384;
      # 12 of 48 layers have one, with 2 key-value heads of 256
      kvBytes = 24576;
      contextSize = 32768;
      parallel = 8;
      args = [ ];
      license = "Apache-2.0";
    };

    # For clients that ask llama.cpp itself. The stack's own vectors come from the embeddings
    # service, which reads directories of the BERT kind, not GGUF.
    #   mudler/LocalAI: gallery/index.yaml
    #   BobertNeek/A-Life: examples/model_manifests/local_semantic_models.json
    # The revision: a NixOS configuration and two further projects, with the same hash.
    "qwen3-embedding-0.6b-q8_0" = {
      role = "embedding";
      url = "https://huggingface.co/Qwen/Qwen3-Embedding-0.6B-GGUF/resolve/370f27d7550e0def9b39c1f16d3fbaa13aa67728/Qwen3-Embedding-0.6B-Q8_0.gguf";
      # hex 06507c7b42688469c4e7298b0a1e16deff06caf291cf0a5b278c308249c3e439
      hash = "sha256-BlB8e0JohGnE5ymLCh4W3v8GyvKRzwpbJ4wwgknD5Dk=";
      size = 639150592;
      # 28 layers, 8 key-value heads of 128
      kvBytes = 114688;
      contextSize = 2048;
      parallel = 2;
      args = [
        "--pooling"
        "last"
      ];
      license = "Apache-2.0";
    };

    #   nobodywho-ooo/nobodywho: nobodywho/models.nix (as SRI)
    #   bloosqr/nodus: scripts/install-reranker.mjs (with revision and size)
    "bge-reranker-v2-m3-q8_0" = {
      role = "reranking";
      url = "https://huggingface.co/gpustack/bge-reranker-v2-m3-GGUF/resolve/3093af03b1a635e67b084b1d8c03c5f5e020fd05/bge-reranker-v2-m3-Q8_0.gguf";
      # hex a43c7c9b11a4c1517e5bf95151960e1621d1b72f7a493364b01e386cf1aaa1d3
      hash = "sha256-pDx8mxGkwVF+W/lRUZYOFiHRty96STNksB44bPGqodM=";
      size = 635676416;
      # an encoder: no cache
      kvBytes = 0;
      contextSize = 1024;
      parallel = 2;
      args = [ ];
      license = "Apache-2.0";
    };
  };
}
