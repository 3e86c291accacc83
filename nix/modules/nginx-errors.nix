# What nginx says by itself, in the two shapes that the services answer errors in: problem+json
# (RFC 9457), and OpenAI's under `openai_routes`. The words are those of
# src/aistack/service/errors.py; a test compares them.
#
#   locations prefix   named locations, one per kind and shape
#   pages prefix shape "error_page …;" lines that lead to them
#
# nginx has no hash and no JSON writer, so a body is a fixed text with variables whose values need no
# escaping (all from nginx-http.nix): $aistack_instance is a whole member or nothing, the others are
# words and numbers.
{ lib }:
let
  invalid = "invalid_request_error";

  # `codes`: what nginx calls it; `status`: what is answered.
  kinds = {
    bad-request = {
      status = 400;
      codes = [ 400 ];
      title = "Bad request";
      openai = invalid;
      detail = "The request cannot be read.";
    };
    uri-too-long = {
      status = 414;
      codes = [ 414 ];
      title = "URI too long";
      openai = invalid;
      detail = "The request line is too long.";
    };
    headers-too-large = {
      status = 431;
      codes = [ 494 ];
      title = "Header fields too large";
      openai = invalid;
      detail = "A header field, or all of them, are too large.";
    };
    not-found = {
      status = 404;
      codes = [
        403
        404
      ];
      title = "Not found";
      openai = invalid;
      detail = "There is nothing at this path.";
    };
    method-not-allowed = {
      status = 405;
      codes = [ 405 ];
      title = "Method not allowed";
      openai = invalid;
      detail = "This path has other methods.";
    };
    too-large = {
      status = 413;
      codes = [ 413 ];
      title = "Too large";
      openai = invalid;
      detail = "The body is larger than $aistack_body_limit bytes.";
      members.limit = "$aistack_body_limit";
    };
    overloaded = {
      status = 429;
      codes = [ 429 ];
      title = "Too many requests at once";
      openai = "rate_limit_error";
      detail = "Too many requests at once.";
      retryAfter = 1;
    };
    internal = {
      status = 500;
      codes = [ 500 ];
      title = "Internal error";
      openai = "server_error";
      detail = "An internal error; the log has its id.";
    };
    not-implemented = {
      status = 501;
      codes = [ 501 ];
      title = "Not available here";
      openai = "server_error";
      detail = "Of transfer codings only `chunked` is understood.";
    };
    # A dead service, and one whose replicas are all away.
    unavailable = {
      status = 503;
      codes = [
        502
        503
      ];
      title = "A dependency is not available";
      openai = "service_unavailable_error";
      detail = "$aistack_service is not there right now; it is being started again.";
      retryAfter = 2;
    };
    deadline-exceeded = {
      status = 504;
      codes = [ 504 ];
      title = "Not done in time";
      openai = "timeout_error";
      detail = "$aistack_service did not answer in time.";
      retryAfter = 1;
    };
  };

  # Before the request is understood there is no location yet, and a named one is refused for want
  # of a URI; these are reached by a path that only nginx itself can ask for.
  early = [
    "bad-request"
    "uri-too-long"
    "headers-too-large"
    "not-implemented"
  ];

  shapes = {
    problem = {
      mime = "application/problem+json";
      body =
        slug: kind:
        let
          members = lib.concatStrings (
            lib.mapAttrsToList (name: value: '',"${name}":${value}'') (kind.members or { })
          );
        in
        ''{"type":"urn:aistack:problem:${slug}","title":"${kind.title}","status":${toString kind.status},"detail":"${kind.detail}",$aistack_instance"error_id":"$aistack_error_id"${members}}'';
    };
    openai = {
      mime = "application/json";
      body =
        slug: kind:
        let
          members = lib.concatStrings (
            lib.mapAttrsToList (name: value: '',"${name}":${value}'') (kind.members or { })
          );
          code = lib.replaceStrings [ "-" ] [ "_" ] slug;
        in
        ''{"error":{"message":"${kind.detail}","type":"${kind.openai}","param":null,"code":"${code}","error_id":"$aistack_error_id"${members}}}'';
    };
  };

  isEarly = slug: lib.elem slug early;
  target =
    shape: slug: if isEarly slug then "/.aistack/${slug}" else "@aistack-${shape}-${slug}";

  # An extension in the path would choose the type; an empty `types` leaves the default one.
  answer = shape: slug: kind: ''
    types { }
    default_type ${shapes.${shape}.mime};
    set $aistack_own_error_id $aistack_error_id;
    set $aistack_retry_after "${toString (kind.retryAfter or "")}";
    return ${toString kind.status} '${shapes.${shape}.body slug kind}';
  '';

  # A connection that was not made is a dead service too, though nginx calls it 504.
  unconnected = shape: ''
    types { }
    default_type ${shapes.${shape}.mime};
    set $aistack_own_error_id $aistack_error_id;
    set $aistack_retry_after "2";
    if ($aistack_unconnected) {
      return 503 '${shapes.${shape}.body "unavailable" kinds.unavailable}';
    }
    set $aistack_retry_after "1";
    return 504 '${shapes.${shape}.body "deadline-exceeded" kinds.deadline-exceeded}';
  '';

  location = shape: slug: kind: {
    name = target shape slug;
    value.extraConfig =
      lib.optionalString (isEarly slug) "internal;\n"
      + (if slug == "deadline-exceeded" then unconnected shape else answer shape slug kind);
  };
in
{
  inherit kinds;

  locations =
    lib.listToAttrs (
      lib.mapAttrsToList (location "problem") kinds
      ++ lib.mapAttrsToList (location "openai") (lib.filterAttrs (slug: _: !isEarly slug) kinds)
    );

  pages =
    shape:
    lib.concatStrings (
      lib.mapAttrsToList (
        slug: kind:
        "error_page ${lib.concatMapStringsSep " " toString kind.codes} = ${target shape slug};\n"
      ) kinds
    );

  # The answer where nothing is routed; `detail` says what there is.
  nothing = detail: answer "problem" "not-found" (kinds.not-found // { inherit detail; });
}
