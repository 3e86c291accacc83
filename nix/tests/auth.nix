# Keys: nothing without one, a narrow one opens only its scope, revoking and rotating take effect
# without a restart, and a machine on the network reaches nothing but the front door.
{ common, ... }:
{
  name = "aistack-auth";

  nodes = {
    machine = {
      imports = [ common.stack ];
      services.aistack.nginx.openFirewall = true;
    };

    visitor =
      { nodes, ... }:
      {
        networking.hosts.${nodes.machine.networking.primaryIPAddress} = [ common.hostName ];
        environment.systemPackages = [
          (common.check {
            key = "/root/key";
            ca = "/root/ca.pem";
          })
        ];
      };
  };

  testScript = ''
    import json
    import shlex

    services = ${common.servicesLiteral}
    store = "/var/lib/aistack/keys/keys.json"


    def hand_over(source: str, target: str) -> None:
        text = machine.succeed(f"base64 --wrap=0 {source}")
        visitor.succeed(f"umask 077; printf %s {text} | base64 --decode >{target}")


    def pids() -> dict[str, str]:
        return {n: machine.get_unit_property(f"aistack-{n}.service", "MainPID") for n in services}


    def status(key: str) -> str:
        return (
            "curl --silent --output /dev/null --write-out '%{http_code}' --cacert /root/ca.pem"
            f" --header \"Authorization: Bearer $(cat {key})\" https://${common.hostName}/v1/models"
        )


    def answers(key: str, wanted: int, seconds: int) -> None:
        visitor.succeed(
            f"timeout {seconds} bash -c 'until [ \"$0\" = \"$(eval \"$1\")\" ]; do sleep 0.1; done'"
            f" {wanted} {shlex.quote(status(key))}"
        )


    start_all()
    machine.wait_for_unit("aistack.target")
    machine.wait_for_unit("nginx.service")
    machine.succeed("aistack-check ready --timeout 300")
    hand_over("${common.certificate}", "/root/ca.pem")
    hand_over("${common.defaultKey}", "/root/key")
    before = pids()

    with subtest("nothing without a key, and the shape of each refusal"):
        machine.succeed("aistack keys create narrow --scope search --write /root/narrow")
        hand_over("/root/narrow", "/root/narrow")
        visitor.succeed("aistack-check ready --timeout 60")
        visitor.succeed("aistack-check auth --narrow-key-file /root/narrow")

    with subtest("a revoked key is refused within two seconds, by every service"):
        made = json.loads(
            machine.succeed("aistack --json keys create short-lived --write /root/short-lived")
        )
        hand_over("/root/short-lived", "/root/short-lived")
        answers("/root/short-lived", 200, 5)
        machine.succeed(f"aistack keys revoke {made['id']}")
        answers("/root/short-lived", 401, 2)

    with subtest("a rotated key and its successor are both good for a while"):
        machine.succeed("aistack keys create turned --write /root/first")
        machine.succeed("aistack keys rotate turned --overlap 1h --write /root/second")
        for name in ("first", "second"):
            hand_over(f"/root/{name}", f"/root/{name}")
            answers(f"/root/{name}", 200, 5)

    with subtest("without the key store everything is refused, and comes back with it"):
        machine.succeed(f"mv {store} {store}.away")
        answers("/root/key", 503, 5)
        machine.succeed(f"mv {store}.away {store}")
        visitor.succeed("aistack-check ready --timeout 30")

    with subtest("none of that took a restart"):
        assert pids() == before

    with subtest("only the front door can be reached"):
        visitor.succeed("nc -z -w 5 machine 80", "nc -z -w 5 machine 443")
        for port in (5432, 6379, 6333, 6334, 8080, 8380, 3000, 3200, 4317, 9090, 9093, 9100, 9180):
            visitor.fail(f"nc -z -w 2 machine {port}")
  '';
}
