# Programs. Versions are those of the tree that the project's notes on nixpkgs cite (26.11pre,
# July 2026) where they were read there, else "0".
{ lib, pkgs }:
let
  program =
    pname: version: more:
    pkgs.mkDerivation ({ inherit pname version; } // more);
  # The plain ones: name = version.
  simple = lib.mapAttrs (pname: version: program pname version { });
  main = mainProgram: { meta = { inherit mainProgram; }; };

  postgresqlOf =
    version:
    let
      major = lib.versions.major version;
      extensions = pkgs.${"postgresql${major}Packages"};
      plain = program "postgresql" version {
        meta.mainProgram = "psql";
        passthru = {
          psqlSchema = major;
          pkgs = extensions;
          dlSuffix = ".so";
          withPackages =
            f:
            let
              installed = (lib.toFunction f) extensions;
            in
            # The same programs, with the extensions' files.
            program "postgresql-and-plugins" version {
              meta.mainProgram = "psql";
              env.paths = map toString installed;
              passthru = {
                psqlSchema = major;
                installedExtensions = map lib.getName installed;
                installedPackages = installed;
              };
            };
          withJIT = plain;
          withoutJIT = plain;
        };
      };
    in
    plain;
  postgresqlExtensions = simple {
    pgvector = "0.8.5";
    vectorchord = "0";
    pg_stat_monitor = "0";
  };

  llamaCpp =
    {
      cudaSupport ? pkgs.config.cudaSupport or false,
      rocmSupport ? pkgs.config.rocmSupport or false,
      vulkanSupport ? false,
      openclSupport ? false,
      blasSupport ? false,
      metalSupport ? false,
      rpcSupport ? false,
    }:
    program "llama-cpp" "9925" {
      meta = {
        # Upstream's: getExe gives no server.
        mainProgram = "llama";
        license = lib.licenses.mit;
      };
      env.support =
        lib.concatStringsSep " " (
          lib.optional cudaSupport "cuda"
          ++ lib.optional rocmSupport "rocm"
          ++ lib.optional vulkanSupport "vulkan"
        );
      passthru = {
        inherit cudaSupport rocmSupport vulkanSupport;
      };
    };
in
simple {
  bash = "5.3";
  bashInteractive = "5.3";
  cacert = "0";
  coreutils = "9.8";
  curl = "8.17.0";
  diffutils = "0";
  envsubst = "0";
  findutils = "4.10.0";
  gawk = "0";
  gcc = "0";
  git = "0";
  gixy = "0";
  glibcLocales = "0";
  gnugrep = "3.12";
  gnused = "4.9";
  gnutar = "0";
  gzip = "0";
  inotify-tools = "0";
  iproute2 = "0";
  jq = "1.8";
  lego = "5.0.0";
  minica = "1.1.0";
  openssh = "0";
  openssl = "0";
  openssl_3 = "0";
  qdrant = "1.18.2";
  qdrant-web-ui = "0";
  ruff = "0";
  sbomnix = "0";
  shellcheck = "0";
  sops = "0";
  systemd = "260";
  tempo = "2.10.0";
  tree = "0";
  tzdata = "0";
  unzip = "0";
  util-linux = "0";
  vulnix = "0";
  xz = "0";
  zstd = "0";
  nixfmt-tree = "0";
  shadow = "0";
  acl = "0";
  age = "0";
  e2fsprogs = "0";
  file = "0";
  hey = "0";
  mypy = "0";
  nix = "0";
  podman = "0";
  procps = "0";
  psmisc = "0";
  pgbackrest = "0";
  rsync = "0";
  socat = "0";
  su = "0";
  which = "0";
  mailcap = "0";
}
// {
  # What nixpkgs gives to write `allowUnfreePredicate` with.
  _cuda.lib.allowUnfreeCudaPredicate =
    package:
    lib.all (
      licence:
      licence.free or true
      || lib.elem (licence.shortName or "") [
        "CUDA EULA"
        "cuDNN EULA"
        "cuSPARSELt EULA"
        "cuTENSOR EULA"
        "NVidia OptiX EULA"
      ]
    ) (lib.toList (package.meta.license or [ ]));
  linuxPackages.nvidiaPackages.stable = program "nvidia-x11" "580.105.08" {
    meta.license = lib.licenses.unfree;
    outputs = [
      "out"
      "bin"
    ];
  };
  nixfmt = program "nixfmt" "0" { };
  nginx = program "nginx" "1.29.4" { };
  nginxStable = pkgs.nginx;
  nginxMainline = program "nginx" "1.29.4" { };
  redis = program "redis" "8.2.3" {
    meta.mainProgram = "redis-cli";
    passthru.serverBin = "redis-server";
  };
  valkey = program "valkey" "9.1.0" {
    meta.mainProgram = "valkey-cli";
    passthru.serverBin = "valkey-server";
  };
  prometheus = program "prometheus" "3.8.0" {
    outputs = [ "out" "doc" "cli" ];
  };
  prometheus-alertmanager = program "alertmanager" "0.29.0" { };
  prometheus-node-exporter = program "node_exporter" "1.10.2" { };
  prometheus-postgres-exporter = program "postgres_exporter" "0.18.1" { };
  prometheus-redis-exporter = program "redis_exporter" "1.80.1" { };
  prometheus-nginx-exporter = program "nginx_exporter" "1.5.1" (main "nginx-prometheus-exporter");
  prometheus-systemd-exporter = program "systemd_exporter" "0.7.0" { };
  prometheus-blackbox-exporter = program "blackbox_exporter" "0.27.0" { };
  prometheus-nvidia-gpu-exporter = program "nvidia_gpu_exporter" "1.4.1" { };
  grafana = program "grafana" "12.3.0" { };
  grafana-loki = program "grafana-loki" "3.6.0" (main "promtail");
  opentelemetry-collector = program "opentelemetry-collector" "0.140.0" (main "otelcorecol");
  opentelemetry-collector-contrib = program "opentelemetry-collector-contrib" "0.140.0" (
    main "otelcol-contrib"
  );
  restic = program "restic" "0.18.1" { };
  open-webui = program "open-webui" "0.10.2" {
    meta.license = lib.licenses.unfree;
  };
  llama-cpp = lib.makeOverridable llamaCpp { };
  llama-cpp-vulkan = pkgs.llama-cpp.override { vulkanSupport = true; };
  llama-cpp-rocm = pkgs.llama-cpp.override { rocmSupport = true; };

  postgresql_15 = postgresqlOf "15.15";
  postgresql_16 = postgresqlOf "16.11";
  postgresql_17 = postgresqlOf "17.7";
  postgresql_18 = postgresqlOf "18.1";
  postgresql = pkgs.postgresql_18;
  postgresql15Packages = postgresqlExtensions;
  postgresql16Packages = postgresqlExtensions;
  postgresql17Packages = postgresqlExtensions;
  postgresql18Packages = postgresqlExtensions;
  postgresqlPackages = pkgs.postgresql18Packages;
}
