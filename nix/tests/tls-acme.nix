# A certificate from a local ACME server (pebble, as nixpkgs' own tests run it): asked for, used by
# nginx, and trusted by a client that knows only that CA.
{
  common,
  pkgs,
  ...
}:
let
  domain = "aistack.example.test";

  # Everybody asks the ACME node's resolver, which knows the names in `networking.extraHosts`.
  client =
    { nodes, ... }:
    {
      imports = [ (pkgs.path + "/nixos/tests/common/acme/client") ];
      networking.nameservers = [ nodes.acme.networking.primaryIPAddress ];
    };
in
{
  name = "aistack-tls-acme";

  nodes = {
    acme.imports = [ (pkgs.path + "/nixos/tests/common/acme/server") ];

    machine =
      { config, ... }:
      {
        imports = [
          common.stack
          client
        ];
        services.aistack.nginx = {
          hostName = domain;
          tls.mode = "acme";
          openFirewall = true;
        };
        networking.extraHosts = "${config.networking.primaryIPAddress} ${domain}";
      };

    visitor = {
      imports = [ client ];
      environment.systemPackages = [
        (common.check {
          url = "https://${domain}";
          key = "/root/key";
          ca = "/root/ca.pem";
        })
        pkgs.openssl
      ];
    };
  };

  testScript = ''
    domain = "${domain}"

    acme.start()
    acme.wait_for_unit("pebble.service")
    acme.wait_for_open_port(443)
    acme.wait_for_open_port(15000)
    machine.start()
    visitor.start()

    with subtest("nginx starts before there is a certificate from the CA"):
        machine.wait_for_unit("nginx.service")
        machine.wait_for_unit("aistack.target")

    with subtest("the certificate of the CA replaces the first one, without a restart"):
        # The CA's root is made anew at each start of pebble; its management port gives it.
        visitor.wait_until_succeeds("curl --fail https://acme.test:15000/roots/0 >/root/ca.pem")
        visitor.wait_until_succeeds(
            f"openssl s_client -connect {domain}:443 -servername {domain} -CAfile /root/ca.pem"
            " -verify_return_error </dev/null"
        )
        assert machine.get_unit_property("nginx.service", "NRestarts") == "0"

    with subtest("a client that trusts only the CA gets its answers"):
        key = machine.succeed("cat ${common.defaultKey}").strip()
        visitor.succeed(f"install -m 600 /dev/null /root/key && printf %s {key} >/root/key")
        visitor.succeed("aistack-check ready --timeout 300", "aistack-check story")

    with subtest("plain HTTP is sent to HTTPS, the challenges apart"):
        visitor.succeed("aistack-check redirect")
  '';
}
