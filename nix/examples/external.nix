# Only the stack's own services run here; what they stand on is run by somebody else: PostgreSQL,
# Redis, the language model, and the certificate.
{
  services.aistack = {
    enable = true;

    # PostgreSQL 15 or newer with pgvector; `postgresql.externalSetup` is the SQL that its
    # administrator runs once.
    postgresql = {
      createLocally = false;
      host = "db.example.org";
      passwordFile = "/run/secrets/aistack-postgres";
      sslMode = "verify-full";
    };

    redis = {
      createLocally = false;
      url = "rediss://cache.example.org:6380/0";
    };

    # A llama.cpp server: the coordinator asks it for the size of its context and counts tokens with
    # it, which other servers cannot do.
    llama.enable = false;
    settings.llama.address = "https://llm.example.org";

    nginx = {
      hostName = "ai.example.org";
      openFirewall = true;
      tls = {
        mode = "files";
        certificate = "/var/lib/secrets/ai.example.org.pem";
        certificateKey = "/run/secrets/ai.example.org.key";
      };
    };

    # Metrics are collected elsewhere: `nginx.metricsPort` has them all on loopback.
    prometheus.enable = false;
    grafana.enable = false;
  };
}
