# Grafana panels in few words, laid out by themselves.
#
#   dashboard { uid; title; rows = [ { title; panels = [ (graph …) (stat …) ]; } ]; }
#
# A panel's queries are `{ expr; legend; }`; units are Grafana's ids.
{ lib }:
let
  datasource = {
    type = "prometheus";
    uid = "aistack-prometheus";
  };

  target = index: query: {
    inherit datasource;
    inherit (query) expr;
    legendFormat = query.legend or "";
    refId = lib.elemAt (lib.stringToCharacters "ABCDEFGH") index;
  };

  panel =
    type: options:
    {
      title,
      queries,
      unit ? "short",
      description ? "",
      max ? null,
    }:
    {
      inherit
        type
        title
        description
        datasource
        options
        ;
      targets = lib.imap0 target queries;
      fieldConfig = {
        defaults = {
          inherit unit;
          min = 0;
        }
        // lib.optionalAttrs (max != null) { inherit max; };
        overrides = [ ];
      };
    };

  # Three panels in a row of 24 columns.
  width = 8;
  height = 7;

  place =
    rows:
    (lib.foldl'
      (
        state: row:
        let
          header = {
            type = "row";
            inherit (row) title;
            collapsed = false;
            panels = [ ];
            gridPos = {
              x = 0;
              inherit (state) y;
              w = 24;
              h = 1;
            };
          };
          placed = lib.imap0 (
            index: panel:
            panel
            // {
              gridPos = {
                x = lib.mod index 3 * width;
                y = state.y + 1 + index / 3 * height;
                w = width;
                h = height;
              };
            }
          ) row.panels;
        in
        {
          y = state.y + 1 + (lib.length row.panels + 2) / 3 * height;
          panels = state.panels ++ [ header ] ++ placed;
        }
      )
      {
        y = 0;
        panels = [ ];
      }
      rows
    ).panels;
in
{
  graph = panel "timeseries" {
    legend = {
      displayMode = "list";
      placement = "bottom";
    };
    tooltip = {
      mode = "multi";
      sort = "desc";
    };
  };

  stat = panel "stat" {
    reduceOptions = {
      calcs = [ "lastNotNull" ];
      fields = "";
      values = false;
    };
    colorMode = "value";
    graphMode = "area";
  };

  dashboard =
    {
      uid,
      title,
      rows,
    }:
    {
      inherit uid title;
      tags = [ "aistack" ];
      schemaVersion = 39;
      editable = false;
      refresh = "30s";
      time = {
        from = "now-6h";
        to = "now";
      };
      timezone = "browser";
      templating.list = [ ];
      annotations.list = [ ];
      links = [
        {
          type = "dashboards";
          title = "aistack";
          tags = [ "aistack" ];
          asDropdown = true;
          includeVars = false;
          keepTime = true;
          icon = "external link";
          targetBlank = false;
          tooltip = "";
          url = "";
        }
      ];
      panels = lib.imap1 (id: panel: panel // { inherit id; }) (place rows);
    };
}
