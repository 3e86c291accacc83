# A client of the test certificate authority.
# Facts: names and types of nixos/tests/common/acme/client/default.nix, not read again.
{ lib, nodes, ... }:
{
  security.acme = {
    acceptTerms = true;
    defaults = {
      server = "https://${nodes.acme.test-support.acme.caDomain}/dir";
      email = "hostmaster@example.test";
    };
  };
  security.pki.certificateFiles = [ nodes.acme.test-support.acme.caCert ];
}
