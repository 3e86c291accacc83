# The configuration of one service, and what follows from it: what it reaches, and how far away.
#
#   settings        "aidb"   the JSON document, as an attribute set
#   configFile      "aidb"   the same in the store
#   network         "aidb"   none | unix | loopback | egress
#   credentials     "aidb"   files that it gets as credentials, by their id
#   missing         "aidb"   needs that nothing gives an address to
{
  cfg,
  lib,
  pkgs,
}:
let
  inherit (cfg.lib) credential override;
  entryOf = name: cfg.stack.services.${name};
  unitOf = name: "aistack-${name}";

  # What a service stands on, of what the modules have entered.
  partsOf = name: lib.attrValues (builtins.intersectAttrs (entryOf name).needs cfg.parts);
  fromParts = name: field: lib.foldl' (all: part: all // part.${field}) { } (partsOf name);

  # Later ones win: what follows from the options, what a part says of itself, the shared settings,
  # the service's own.
  settings =
    name:
    lib.foldl' override
      {
        auth = {
          keys_file = cfg.secrets.files.keys;
          pepper_file = credential (unitOf name) "pepper";
          internal_key_file = credential (unitOf name) "internal-key";
        };
        embeddings = {
          model = "${cfg.embeddingModel}";
          state_dir = "/var/cache/aistack-embeddings";
        }
        // lib.optionalAttrs (cfg.rerankModel != null) { rerank_model = "${cfg.rerankModel}"; };
        aidb.embedding_model = "${cfg.embeddingModel}";
      }
      (
        map (part: part.settings (unitOf name)) (partsOf name)
        ++ [
          cfg.settings
          cfg.${name}.settings
        ]
      );

  # Where the address of a need is in the settings.
  pathOf =
    need:
    {
      postgres = [
        "postgres"
        "host"
      ];
      redis = [
        "redis"
        "url"
      ];
      llama = [
        "llama"
        "address"
      ];
      qdrant = [
        "vectors"
        "qdrant"
        "url"
      ];
    }
    .${need} or [
      "peers"
      need
    ];

  addressOf = name: path: lib.attrByPath path null (settings name);

  networks = [
    "none"
    "unix"
    "loopback"
    "egress"
  ];
  farthest = asked: lib.last (lib.filter (network: lib.elem network asked) networks);

  # A host alone (PostgreSQL's), `/directory`, `unix:/path` or `scheme://host:port`.
  distance =
    address:
    if lib.hasPrefix "/" address || lib.hasPrefix "unix:" address then
      "unix"
    else if
      builtins.match "([a-z]+://)?([^/@]*@)?(localhost|127\\.[0-9.]+|::1|\\[::1])([:/].*)?" address
      != null
    then
      "loopback"
    else
      "egress";
in
{
  inherit
    partsOf
    fromParts
    pathOf
    settings
    ;

  configFile = name: pkgs.writeText "aistack-${name}.json" (builtins.toJSON (settings name));

  network =
    name:
    let
      entry = entryOf name;
      paths = map pathOf (lib.attrNames entry.needs) ++ [
        [
          "tracing"
          "endpoint"
        ]
      ];
      addresses = lib.filter (address: address != null) (map (addressOf name) paths);
      asked = [
        entry.network
      ]
      ++ map (part: part.network) (partsOf name)
      ++ map distance addresses;
    in
    farthest asked;

  credentials =
    name:
    {
      inherit (cfg.secrets.files) pepper;
      internal-key = cfg.secrets.files.internalKeys.${name};
    }
    // fromParts name "credentials";

  missing =
    name:
    lib.filter (need: addressOf name (pathOf need) == null) (
      # An optional one is needed where an option chooses it, and its module asks for the address.
      lib.attrNames (lib.filterAttrs (_: kind: kind != "optional") (entryOf name).needs)
    );
}
