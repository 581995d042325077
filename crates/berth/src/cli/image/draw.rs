//! Answers of the daemon as a person reads them.

use berth_client::{readable, table};
use serde_json::Value;

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn bytes(value: &Value) -> String {
    readable(value.as_u64().unwrap_or(0))
}

/// First names, or the id.
fn called(image: &Value) -> &str {
    list(&image["names"]).first().map_or_else(|| text(&image["id"]), text)
}

fn texts(value: &Value) -> Vec<&str> {
    list(value).iter().map(text).collect()
}

pub(super) fn image(image: &Value) -> String {
    let mut rows = Vec::new();
    let mut row = |key: &str, value: String| {
        if !value.is_empty() {
            rows.push(vec![key.to_owned(), value]);
        }
    };
    row("id", text(&image["id"]).to_owned());
    for (at, name) in texts(&image["names"]).into_iter().enumerate() {
        row(if at == 0 { "names" } else { "" }, name.to_owned());
    }
    for (at, digest) in texts(&image["digests"]).into_iter().enumerate() {
        row(if at == 0 { "digests" } else { "" }, digest.to_owned());
    }
    row("created", text(&image["created"]).to_owned());
    row("platform", format!("{}/{}", text(&image["os"]), text(&image["architecture"])));
    let pinned = if image["pinned"] == true { ", pinned" } else { "" };
    row("size", format!("{}{pinned}", bytes(&image["bytes"])));
    for (at, place) in list(&image["places"]).iter().enumerate() {
        let place = format!("{} as {}", text(&place["repository"]), text(&place["manifest"]));
        row(if at == 0 { "registries" } else { "" }, place);
    }
    for (at, holder) in list(&image["used_by"]).iter().enumerate() {
        let id = text(&holder["id"]);
        let holder = format!("{} {}", id.get(..12).unwrap_or(id), text(&holder["name"]));
        row(if at == 0 { "used by" } else { "" }, holder.trim_end().to_owned());
    }
    let configured = &image["config"]["config"];
    for (key, name) in [("user", "User"), ("directory", "WorkingDir"), ("stop signal", "StopSignal")] {
        row(key, text(&configured[name]).to_owned());
    }
    for (key, name) in [("entrypoint", "Entrypoint"), ("command", "Cmd")] {
        let words = &configured[name];
        row(key, if words.is_null() { String::new() } else { words.to_string() });
    }
    for (at, variable) in texts(&configured["Env"]).into_iter().enumerate() {
        row(if at == 0 { "environment" } else { "" }, variable.to_owned());
    }
    let keys = |of: &str| -> Vec<String> {
        configured[of].as_object().into_iter().flat_map(|all| all.keys().cloned()).collect()
    };
    row("ports", keys("ExposedPorts").join(", "));
    row("volumes", keys("Volumes").join(", "));
    for (at, label) in keys("Labels").into_iter().enumerate() {
        let value = text(&configured["Labels"][&label]);
        row(if at == 0 { "labels" } else { "" }, format!("{label}={value}"));
    }
    let mut drawn = table(&rows);
    let layers = list(&image["layers"]);
    drawn += &format!("layers ({})\n", layers.len());
    let layer = |layer: &Value| {
        let shared = texts(&layer["shared_by"]);
        let shared =
            if shared.is_empty() { String::new() } else { format!("shared by {}", shared.join(", ")) };
        let state = if layer["damaged"] == true { "DAMAGED " } else { "" };
        vec![format!("  {}", text(&layer["diff_id"])), bytes(&layer["bytes"]), format!("{state}{shared}")]
    };
    drawn + &table(&layers.iter().map(layer).collect::<Vec<_>>())
}

pub(super) fn pruned(pruned: &Value) -> String {
    let dry = pruned["dry_run"] == true;
    let images = list(&pruned["images"]);
    let mut drawn: String = images
        .iter()
        .map(|image| format!("{} {}\n", if dry { "would go:" } else { "removed:" }, called(image)))
        .collect();
    let (would, free) = (if dry { "would come" } else { "came" }, bytes(&pruned["bytes"]));
    let layers = pruned["layers"].as_u64().unwrap_or(0);
    let count = |number: usize, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
    let (images, layers) =
        (count(images.len(), "image"), count(usize::try_from(layers).unwrap_or(0), "layer"));
    drawn += &format!("{images}, {layers}; {free} {would} free\n");
    drawn
}

pub(super) fn pushed(pushed: &Value) -> String {
    let mut drawn = String::new();
    for one in list(pushed) {
        let layers = list(&one["layers"]);
        let count = |state: &str| layers.iter().filter(|layer| layer["state"] == state).count();
        let sent: u64 = layers
            .iter()
            .filter(|layer| layer["state"] == "done")
            .filter_map(|layer| layer["bytes"].as_u64())
            .sum();
        let digest = if one["unchanged"] == true { "digest" } else { "new digest" };
        drawn += &format!("{} {}\n", text(&one["reference"]), text(&one["digest"]));
        drawn += &format!(
            "  {digest}; {} of {} layers sent ({}), {} there, {} taken from another repository\n",
            count("done"),
            layers.len(),
            readable(sent),
            count("there"),
            count("mounted"),
        );
    }
    drawn
}

pub(super) fn explanation(found: &Value) -> String {
    let mut drawn = format!("{}\n", text(&found["reference"]));
    drawn += &match found["file"].as_str() {
        Some(file) => format!("places by {file}\n"),
        None => "no file says where to ask: the registry itself is asked\n".to_owned(),
    };
    for key in texts(&found["unknown"]) {
        drawn += &format!("  the key {key} in it means nothing here\n");
    }
    for (at, place) in list(&found["places"]).iter().enumerate() {
        let kind = if place["mirror"] == true { "mirror" } else { "registry" };
        let (number, endpoint) = (at + 1, text(&place["endpoint"]));
        drawn += &format!("\n{number}. {kind} {endpoint} ({})\n", texts(&place["capabilities"]).join(", "));
        let rows = [
            ("credentials", text(&place["credentials"])),
            ("TLS", text(&place["tls"])),
            ("proxy", place["proxy"].as_str().unwrap_or("none")),
        ];
        let rows = rows.map(|(key, value)| vec![format!("   {key}"), value.to_owned()]);
        drawn += &table(&rows);
        let steps = list(&place["steps"]);
        if steps.is_empty() {
            drawn += "   not asked: it may not be used for this\n";
        }
        let step = |step: &Value| {
            let word = if step["ok"] == true { "   ok" } else { "   FAIL" };
            let says = format!("{} ({} ms)", text(&step["says"]), step["milliseconds"]);
            vec![word.to_owned(), text(&step["name"]).to_owned(), says]
        };
        drawn += &table(&steps.iter().map(step).collect::<Vec<_>>());
    }
    let verdict = if found["works"] == true { "a pull would get" } else { "a pull would FAIL:" };
    drawn + &format!("\n{verdict} {}\n", text(&found["says"]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_image() {
        let drawn = image(&json!({
            "id": "sha256:1", "names": ["r.io/a:1", "r.io/a:2"], "digests": [], "created": null, "os": "linux",
            "architecture": "amd64", "bytes": 1500, "pinned": true, "places": [{ "repository": "r.io/a", "manifest": "sha256:2" }],
            "used_by": [{ "id": "0123456789abcdef", "name": "web" }],
            "config": { "config": { "Cmd": ["sh", "-c"], "Env": ["A=b"], "ExposedPorts": { "80/tcp": {} } } },
            "layers": [
                { "diff_id": "sha256:3", "bytes": 10, "damaged": false, "shared_by": ["r.io/b:1"] },
                { "diff_id": "sha256:4", "bytes": 20, "damaged": true, "shared_by": [] },
            ],
        }));
        let expected = "\
id           sha256:1
names        r.io/a:1
             r.io/a:2
platform     linux/amd64
size         1.5 kB, pinned
registries   r.io/a as sha256:2
used by      0123456789ab web
command      [\"sh\",\"-c\"]
environment  A=b
ports        80/tcp
layers (2)
  sha256:3  10 B  shared by r.io/b:1
  sha256:4  20 B  DAMAGED
";
        assert_eq!(drawn, expected);
    }

    #[test]
    fn a_pruning() {
        let mut answer = json!({ "images": [{ "id": "sha256:1", "names": [] }], "layers": 2, "bytes": 3000, "dry_run": true });
        assert_eq!(pruned(&answer), "would go: sha256:1\n1 image, 2 layers; 3.0 kB would come free\n");
        answer["dry_run"] = json!(false);
        assert_eq!(pruned(&answer), "removed: sha256:1\n1 image, 2 layers; 3.0 kB came free\n");
    }

    #[test]
    fn an_explanation() {
        let drawn = explanation(&json!({
            "reference": "r.io/a:1", "file": "/c/hosts.toml", "unknown": ["foo"], "works": false, "says": "no route",
            "places": [
                { "endpoint": "https://m/v2", "mirror": true, "capabilities": ["pull"], "tls": "verified",
                  "proxy": null, "credentials": "none", "steps": [] },
                { "endpoint": "https://r.io/v2", "mirror": false, "capabilities": ["pull", "resolve"], "tls": "verified",
                  "proxy": "http://p:3", "credentials": "user and password from the request", "steps": [
                    { "name": "dns", "ok": true, "says": "p is 1.2.3.4", "milliseconds": 1 },
                    { "name": "connect", "ok": false, "says": "refused", "milliseconds": 20 },
                ] },
            ],
        }));
        let expected = "\
r.io/a:1
places by /c/hosts.toml
  the key foo in it means nothing here

1. mirror https://m/v2 (pull)
   credentials  none
   TLS          verified
   proxy        none
   not asked: it may not be used for this

2. registry https://r.io/v2 (pull, resolve)
   credentials  user and password from the request
   TLS          verified
   proxy        http://p:3
   ok    dns      p is 1.2.3.4 (1 ms)
   FAIL  connect  refused (20 ms)

a pull would FAIL: no route
";
        assert_eq!(drawn, expected);
    }

    #[test]
    fn a_push() {
        let drawn = pushed(
            &json!([{ "reference": "r.io/a:1", "digest": "sha256:1", "unchanged": false, "layers": [
            { "bytes": 1000, "state": "done" }, { "bytes": 5, "state": "there" }, { "bytes": 5, "state": "mounted" },
        ] }]),
        );
        let expected = "r.io/a:1 sha256:1\n  new digest; 1 of 3 layers sent (1.0 kB), 1 there, 1 taken from another repository\n";
        assert_eq!(drawn, expected);
    }
}
