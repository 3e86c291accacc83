# Qdrant as the engine of vectors, the real server: it answers with its key alone, searches go on
# without it, and what it has lost is built again.
{ common, ... }:
{
  name = "aistack-qdrant";

  nodes.machine =
    { pkgs, ... }:
    {
      imports = [ common.stack ];
      services.aistack.vectors = {
        engine = "qdrant";
        quantization = "int8";
      };
      environment.systemPackages = [
        pkgs.curl
        pkgs.jq
      ];
    };

  testScript = ''
    import json
    from typing import Any

    own = "https://${common.hostName}/v1"
    qdrant = "http://127.0.0.1:6333"
    key = "/var/lib/aistack/secrets/qdrant-api-key"
    ask = (
        "curl --fail --silent --show-error --cacert ${common.certificate}"
        ' --header "Authorization: Bearer $(cat ${common.defaultKey})"'
        " --header 'Content-Type: application/json'"
    )
    body = json.dumps({"query": "lighthouse", "collection": "kept", "mode": "dense"})
    search = f"{ask} --data '{body}' {own}/search"
    raw = f'curl --fail --silent --show-error --header "api-key: $(cat {key})"'


    def searched() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(machine.succeed(search))
        return found


    def by_qdrant() -> None:
        machine.wait_until_succeeds(f"{search} | jq --exit-status '.dense_engine == \"qdrant\"'")


    machine.start()
    machine.wait_for_unit("aistack.target")
    machine.wait_for_unit("qdrant.service")
    machine.wait_for_unit("nginx.service")
    machine.succeed("aistack-check ready --timeout 300")

    with subtest("nobody is let in without the key, and it listens on loopback alone"):
        machine.fail(f"curl --fail --silent {qdrant}/collections")
        machine.succeed(f"{raw} {qdrant}/collections", "aistack-check ports")

    with subtest("documents reach it, and it answers"):
        machine.succeed("aistack-check store --collection kept --state /root/kept.json")
        by_qdrant()
        found = searched()
        assert found["hits"], found
        assert found["degraded"] == [], found
        machine.succeed("aistack-check story")
        made = json.loads(machine.succeed(f"{raw} {qdrant}/collections/aistack_set_1"))
        config = made["result"]["config"]
        assert config["quantization_config"]["scalar"]["type"] == "int8", config

    with subtest("killed, it is back with what it had"):
        machine.succeed("systemctl kill --signal=KILL qdrant.service")
        machine.wait_until_succeeds(f"{raw} {qdrant}/readyz")
        by_qdrant()
        machine.succeed("aistack-check recall --collection kept --state /root/kept.json")

    with subtest("without it searches are answered, and say so"):
        machine.succeed("systemctl stop qdrant.service")
        found = searched()
        assert found["dense_engine"] == "pgvector", found
        assert found["degraded"] == ["qdrant"], found
        assert found["hits"], found
        machine.succeed("systemctl start qdrant.service")
        by_qdrant()

    with subtest("a collection that was lost is built again"):
        machine.succeed(f"{raw} --request DELETE {qdrant}/collections/aistack_set_1")
        machine.wait_until_succeeds(f"{raw} {qdrant}/collections/aistack_set_1")
        by_qdrant()

    with subtest("a comparison finds nothing to mend"):
        machine.succeed(f"{ask} --request POST {own}/vectors/reconcile")
        machine.wait_until_succeeds(
            f"{ask} {own}/vectors | jq --exit-status '.index | .wanted == null and .drift == 0'"
        )
  '';
}
