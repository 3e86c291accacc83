# The stack on three machines, as nix/examples/three-machines: what passes between them is encrypted
# and verified on both ends, and the loss of one encoder, or of a connection, is survived.
{
  common,
  lib,
  own,
  pkgs,
  ...
}:
let
  name = "aistack.internal";

  # An authority and one certificate for each machine. Made at build time, so in the store: for a
  # test only.
  certificates =
    pkgs.runCommand "aistack-test-certificates" { nativeBuildInputs = [ pkgs.openssl ]; }
      ''
        mkdir $out
        cd $out
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 3650 \
          -subj "/CN=aistack test authority" -keyout ca.key -out ca.pem
        for machine in front data worker; do
          openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc \
            -subj "/CN=$machine" -keyout $machine.key -out $machine.csr
          openssl x509 -req -in $machine.csr -CA ca.pem -CAkey ca.key -days 3650 \
            -extfile <(echo "subjectAltName = DNS:${name}") -out $machine.pem
        done
        rm ca.key *.csr
      '';

  # One key store for all three.
  keys = pkgs.runCommand "aistack-test-keys" { } ''
    mkdir $out
    ${lib.getExe own.aistack} --data-dir $out keys init
  '';

  # What a secret store would put into /run/secrets.
  secrets =
    machine:
    let
      file =
        mode: group: target: source:
        "C+ /run/secrets/aistack-${target} ${mode} root ${group} - ${source}";
    in
    map (
      service: file "0400" "root" "${service}.key" "${keys}/keys/internal/${service}.key"
    ) common.services
    ++ [
      (file "0400" "root" "ca.pem" "${certificates}/ca.pem")
      (file "0400" "root" "machine.pem" "${certificates}/${machine}.pem")
      (file "0400" "root" "machine.key" "${certificates}/${machine}.key")
      (file "0400" "root" "pepper" "${keys}/keys/pepper")
      (file "0640" "aistack" "keys.json" "${keys}/keys/keys.json")
    ];

  member = machine: {
    imports = [
      ../modules
      ../examples/three-machines/common.nix
      common.machine
    ];
    services.aistack.machines.enable = true;
    systemd.tmpfiles.rules = secrets machine;
  };

  addressOf = node: "${node.networking.primaryIPAddress}:9443";
in
{
  name = "aistack-three-machines";

  nodes = {
    front =
      { nodes, ... }:
      {
        imports = [ (member "front") ];
        services.aistack = {
          roles = [
            "front"
            "coordinator"
            "llama"
          ];
          replicas = {
            aidb = [ (addressOf nodes.data) ];
            embeddings = [
              (addressOf nodes.data)
              (addressOf nodes.worker)
            ];
          };
          llama.instances.chat = {
            model = common.chatModel;
            contextSize = 2048;
            parallel = 2;
          };
          nginx = {
            inherit (common) hostName;
            openFirewall = true;
          };
        };
      };

    data = {
      imports = [ (member "data") ];
      services.aistack.roles = [
        "data"
        "aidb"
        "embeddings"
      ];
    };

    worker = {
      imports = [ (member "worker") ];
      services.aistack = {
        roles = [ "embeddings" ];
        redis.createLocally = true;
      };
    };

    visitor =
      { nodes, ... }:
      {
        networking.hosts.${nodes.front.networking.primaryIPAddress} = [ common.hostName ];
        environment.systemPackages = [
          (common.check {
            key = "${keys}/keys/default.key";
            ca = "/root/ca.pem";
          })
        ];
      };
  };

  testScript = ''
    import json

    members = [front, data, worker]


    def active(machine: Machine, unit: str) -> bool:
        return machine.execute(f"systemctl --quiet is-active {unit}")[0] == 0


    start_all()
    for member in members:
        member.wait_for_unit("aistack.target")
        member.wait_for_unit("nginx.service")
    certificate = front.succeed("base64 --wrap=0 ${common.certificate}")
    visitor.succeed(f"printf %s {certificate} | base64 --decode >/root/ca.pem")

    with subtest("documents in, cited answers out, over three machines"):
        visitor.succeed("aistack-check ready --timeout 300", "aistack-check story")

    with subtest("each machine runs its roles and nothing else"):
        where = {
            "aistack-coordinator": [front],
            "aistack-llama-chat": [front],
            "aistack-aidb": [data],
            "postgresql": [data],
            "aistack-embeddings": [data, worker],
        }
        for unit, machines in where.items():
            for member in members:
                runs = active(member, f"{unit}.service")
                assert runs == (member in machines), (unit, member.name)

    with subtest("machines answer no stranger"):
        for machine in ("data", "worker"):
            said = visitor.succeed(
                "curl --silent --insecure --output /dev/null --write-out '%{http_code}'"
                f" --header 'Host: embeddings.${name}' https://{machine}:9443/v1/models"
            )
            assert said == "400", said

    with subtest("restarts of both encoders in turn lose no request"):
        visitor.succeed(
            "rm -f /tmp/enough; systemd-run --unit=load --remain-after-exit"
            " $(command -v aistack-check) load --until /tmp/enough --report /tmp/report.json"
        )
        for member in (data, worker):
            for _ in range(5):
                member.succeed("systemctl restart aistack-embeddings.service")
        visitor.succeed("touch /tmp/enough")
        visitor.wait_until_fails("systemctl show --property=SubState load | grep running")
        report = json.loads(visitor.succeed("cat /tmp/report.json"))
        print(report)
        assert report["requests"] > 0
        assert report["failed"] == 0

    with subtest("one encoder is lost, the other carries on"):
        worker.crash()
        visitor.succeed("aistack-check story")
        worker.start()
        worker.wait_for_unit("aistack.target")

    with subtest("without the machine of the documents their routes say 503, and it comes back"):
        visitor.succeed("aistack-check store --collection kept --state /root/kept.json")
        data.block()
        visitor.succeed("aistack-check down --service aidb")
        data.unblock()
        visitor.succeed("aistack-check ready --timeout 120")
        visitor.succeed("aistack-check recall --collection kept --state /root/kept.json")
  '';
}
