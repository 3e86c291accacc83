# What the VM tests share: a host with the whole stack on models that are small enough for a test,
# and `aistack-check`, which runs the check scripts that the system test (tests/system) runs too.
{
  lib,
  pkgs,
  own,
}:
rec {
  hostName = "aistack.test";
  defaultKey = "/var/lib/aistack/keys/default.key";
  certificate = "/var/lib/aistack-tls/certificate.pem";

  services = lib.attrNames (lib.importTOML ../../src/aistack/stack.toml).services;
  # As a Python literal in a test script.
  servicesLiteral = builtins.toJSON services;

  chatModel = "${own.smollm2-135m-instruct}/SmolLM2-135M-Instruct.Q4_1.gguf";

  checks = lib.fileset.toSource {
    root = ../../tests/system;
    fileset = lib.fileset.fileFilter (file: file.hasExt "py") ../../tests/system/checks;
  };

  # aistack-check NAME [more]: plain Python against an address with a key.
  check =
    {
      url ? "https://${hostName}",
      key ? defaultKey,
      ca ? certificate,
    }:
    pkgs.writeShellApplication {
      name = "aistack-check";
      runtimeInputs = [ pkgs.python3 ];
      text = ''
        name=$1
        shift
        export PYTHONPATH=${checks} PYTHONDONTWRITEBYTECODE=1
        exec python3 -m "checks.$name" --base-url ${url} --key-file ${key} --ca ${ca} "$@"
      '';
    };

  # A machine for the stack: the encoder, PostgreSQL and a language model want room.
  machine = {
    virtualisation = {
      cores = 2;
      memorySize = 4096;
      diskSize = 8192;
    };
  };

  stack = {
    imports = [
      ../modules
      machine
    ];

    services.aistack = {
      enable = true;
      nginx.hostName = lib.mkDefault hostName;
      llama.instances.chat = {
        model = chatModel;
        contextSize = 4096;
        parallel = 2;
      };
    };

    networking.extraHosts = "127.0.0.1 ${hostName}";

    environment = {
      systemPackages = [
        (check { })
        own.aistack
      ];
      # For the `aistack` command of an administrator on the machine.
      variables.AISTACK_DATA_DIR = "/var/lib/aistack";
    };
  };
}
