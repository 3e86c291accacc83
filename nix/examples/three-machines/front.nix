# Machine 1 of 3 (10.0.0.1): what clients see, the conversations, and the monitoring.
{
  imports = [ ./common.nix ];

  services.aistack = {
    roles = [
      "front"
      "coordinator"
      "monitoring"
    ];

    replicas = {
      aidb = [ "10.0.0.2:9443" ];
      # Two of them share the work.
      embeddings = [
        "10.0.0.2:9443"
        "10.0.0.3:9443"
      ];
      llama = [ "10.0.0.3:9443" ];
    };

    nginx = {
      hostName = "ai.example.org";
      tls.mode = "acme";
      openFirewall = true;
    };
  };

  security.acme = {
    acceptTerms = true;
    defaults.email = "admin@example.org";
  };
}
