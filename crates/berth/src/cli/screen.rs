//! A status object as one screen of text.

use serde_json::{Map, Value};

/// Columns a person looks for first.
const FIRST: [&str; 3] = ["id", "name", "namespace"];
/// Rows shown of one list.
const ROWS: usize = 40;

/// Objects become a block of `key  value`, lists of objects a table, the rest a line each; the instance comes first.
pub(super) fn draw(status: &Value) -> String {
    let Value::Object(parts) = status else { return format!("{}\n", word(status)) };
    let mut text = String::new();
    let instance = parts.get_key_value("instance");
    for (title, part) in instance.into_iter().chain(parts.iter().filter(|(title, _)| *title != "instance")) {
        if !text.is_empty() {
            text.push('\n');
        }
        match part {
            Value::Object(fields) => {
                text += &format!("{title}\n");
                text += &columns(fields.iter().map(|(k, v)| vec![k.clone(), word(v)]).collect());
            }
            Value::Array(rows) => {
                text += &format!("{title} ({})\n", rows.len());
                text += &table(rows);
            }
            scalar => text += &format!("{title}: {}\n", word(scalar)),
        }
    }
    text
}

fn table(rows: &[Value]) -> String {
    let objects: Vec<&Map<String, Value>> = rows.iter().filter_map(Value::as_object).take(ROWS).collect();
    let Some(first) = objects.first() else {
        return rows.iter().take(ROWS).map(|row| format!("  {}\n", word(row))).collect();
    };
    // What is a table itself is for programs.
    let is_table = |value: &Value| value.as_array().is_some_and(|list| list.iter().any(Value::is_object));
    let is_shown = |key: &&String| !objects.iter().any(|row| row.get(*key).is_some_and(is_table));
    let mut keys: Vec<&String> = first.keys().filter(is_shown).collect();
    keys.sort_by_key(|key| FIRST.iter().position(|first| first == key).unwrap_or(FIRST.len()));
    let mut cells = vec![keys.iter().map(|key| key.to_uppercase()).collect::<Vec<_>>()];
    cells.extend(
        objects
            .iter()
            .map(|row| keys.iter().map(|key| row.get(*key).map_or_else(String::new, word)).collect()),
    );
    let mut text = columns(cells);
    if rows.len() > ROWS {
        text += &format!("  and {} more (--json shows all)\n", rows.len() - ROWS);
    }
    text
}

fn columns(rows: Vec<Vec<String>>) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|c| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("  {cell:<width$}"));
        format!("{}\n", cells.collect::<String>().trim_end())
    };
    rows.iter().map(line).collect()
}

fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(word).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_is_one_screen() {
        let drawn = draw(&json!({
            "images": [],
            "instance": { "name": "berth", "pid": 7 },
            "pods": [
                { "age": "3s", "id": "abc", "ips": ["10.85.0.2", "fd00::2"], "parts": [] },
                { "age": "1m", "id": "d", "ips": null, "parts": [{ "bytes": 1 }] },
            ],
        }));
        let expected = "\
instance
  name  berth
  pid   7

images (0)

pods (2)
  ID   AGE  IPS
  abc  3s   10.85.0.2, fd00::2
  d    1m   -
";
        assert_eq!(drawn, expected);
    }
}
