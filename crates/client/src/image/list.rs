use std::collections::HashMap;

use berth_cri_api::v1::{Image, ListImagesRequest};
use clap::ArgMatches;
use serde_json::json;

use crate::ClientError;
use crate::find::{self, short};
use crate::node::Node;
use crate::output::{print, size, table};

pub(super) async fn command(node: &mut Node, matches: &ArgMatches) -> Result<u8, ClientError> {
    let words = |name: &str| -> Vec<String> {
        matches.get_many::<String>(name).into_iter().flatten().cloned().collect()
    };
    let (filters, patterns) = (words("filter"), words("PATTERN"));
    let listed = node.images.list_images(ListImagesRequest::default()).await;
    let mut images = listed.map_err(ClientError::call("list images"))?.into_inner().images;
    let users = users(node).await?;
    let used_by = |image: &Image| users.get(&image.id).map_or(&[][..], Vec::as_slice);
    images.retain(|image| {
        let fits = |filter: &String| match filter.as_str() {
            "used" => !used_by(image).is_empty(),
            "unused" => used_by(image).is_empty(),
            "pinned" => image.pinned,
            _ => image.repo_tags.is_empty(),
        };
        let called = |pattern: &String| is_called(image, pattern);
        filters.iter().all(fits) && (patterns.is_empty() || patterns.iter().any(called))
    });
    if matches.get_flag("quiet") {
        print(&images.iter().map(|image| format!("{}\n", image.id)).collect::<String>())?;
        return Ok(0);
    }
    if matches.get_flag("json") {
        let one = |image: &Image| {
            json!({
                "id": image.id,
                "names": image.repo_tags,
                "digests": image.repo_digests,
                "bytes": image.size,
                "pinned": image.pinned,
                "used_by": used_by(image),
            })
        };
        print(&format!("{:#}\n", serde_json::Value::from_iter(images.iter().map(one))))?;
        return Ok(0);
    }
    let digests = matches.get_flag("digests");
    let mut rows: Vec<Vec<String>> =
        images.iter().flat_map(|image| rows(image, used_by(image), digests)).collect();
    rows.sort();
    let head = ["IMAGE", "DIGEST", "ID", "SIZE", "USED BY"];
    let head = head.iter().filter(|name| digests || **name != "DIGEST").map(|name| (*name).to_owned());
    rows.insert(0, head.collect());
    print(&table(&rows))?;
    Ok(0)
}

/// Containers by their images, also those that have ended.
pub(super) async fn users(node: &mut Node) -> Result<HashMap<String, Vec<String>>, ClientError> {
    let mut users = HashMap::<String, Vec<String>>::new();
    for container in find::all(node).await? {
        let name = find::name(&container).to_owned();
        users.entry(container.image_id).or_default().push(name);
    }
    users.values_mut().for_each(|names| names.sort());
    Ok(users)
}

/// One for each name.
fn rows(image: &Image, used_by: &[String], digests: bool) -> Vec<Vec<String>> {
    let id = image.id.strip_prefix("sha256:").unwrap_or(&image.id);
    let names = if image.repo_tags.is_empty() { &image.repo_digests } else { &image.repo_tags };
    let none = [String::from("-")];
    let row = |name: &String| {
        let mut row = vec![name.clone()];
        if digests {
            let place = repository(name);
            let own = image.repo_digests.iter().find(|pinned| repository(pinned) == place);
            let digest = own.or(image.repo_digests.first()).and_then(|pinned| pinned.split_once('@'));
            row.push(digest.map_or("-", |(_, digest)| digest).to_owned());
        }
        let pin = if image.pinned { " (pinned)" } else { "" };
        row.extend([short(id).to_owned(), size(image.size), format!("{}{pin}", used_by.join(", "))]);
        row
    };
    let names = if names.is_empty() { &none[..] } else { &names[..] };
    names.iter().map(row).collect()
}

/// Without tag and digest.
fn repository(name: &str) -> &str {
    let name = name.split('@').next().unwrap_or(name);
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
}

/// By its whole name or its end from a slash on, with or without its tag; by its id.
fn is_called(image: &Image, pattern: &str) -> bool {
    let hex = image.id.strip_prefix("sha256:").unwrap_or(&image.id);
    let by_id = pattern.len() >= 4 && hex.starts_with(pattern.strip_prefix("sha256:").unwrap_or(pattern));
    let names = image.repo_tags.iter().chain(&image.repo_digests);
    by_id
        || names.flat_map(|name| [name.as_str(), repository(name)]).any(|name| {
            let from = std::iter::once(0).chain(name.match_indices('/').map(|(at, _)| at + 1));
            from.into_iter().any(|from| matches(&name[from..], pattern))
        })
}

/// `*` for any letters, `?` for one.
fn matches(text: &str, pattern: &str) -> bool {
    let (text, pattern): (Vec<char>, Vec<char>) = (text.chars().collect(), pattern.chars().collect());
    let (mut at, mut next) = (0, 0);
    // Where the last star was, and what it stands for ends.
    let mut star: Option<(usize, usize)> = None;
    while at < text.len() {
        match pattern.get(next) {
            Some('*') => {
                star = Some((next, at));
                next += 1;
            }
            Some(letter) if *letter == '?' || *letter == text[at] => (at, next) = (at + 1, next + 1),
            _ => match star {
                Some((place, end)) => {
                    star = Some((place, end + 1));
                    (at, next) = (end + 1, place + 1);
                }
                None => return false,
            },
        }
    }
    pattern[next..].iter().all(|letter| *letter == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (text, pattern, expected) in [
            ("", "", true),
            ("", "*", true),
            ("abc", "abc", true),
            ("abc", "a?c", true),
            ("abc", "a*", true),
            ("abc", "*c", true),
            ("abcbc", "a*bc", true),
            ("abcb", "a*bc", false),
            ("abc", "ab", false),
            ("abc", "", false),
            ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "*a*a*a*a*a*a*a*b", false),
        ] {
            assert_eq!(matches(text, pattern), expected, "{text} {pattern}");
        }
    }

    #[test]
    fn images_are_called_by_parts_of_their_names() {
        let image = Image {
            id: format!("sha256:{}", "ab".repeat(32)),
            repo_tags: vec!["docker.io/library/box:1".into(), "[::1]:5000/x:2".into()],
            ..Image::default()
        };
        for (pattern, expected) in [
            ("box", true),
            ("box:1", true),
            ("box:2", false),
            ("library/box", true),
            ("docker.io/*", true),
            ("ox:1", false),
            ("x", true),
            ("abab", true),
            ("sha256:abababab", true),
            ("aba", false),
        ] {
            assert_eq!(is_called(&image, pattern), expected, "{pattern}");
        }
    }

    #[test]
    fn a_row_for_each_name() {
        let digest = format!("sha256:{}", "d".repeat(64));
        let image = Image {
            id: "sha256:0123456789abcdef".into(),
            repo_tags: vec!["r.io/a:1".into(), "q.io/b:1".into()],
            repo_digests: vec!["q.io/b@sha256:e".into(), format!("r.io/a@{digest}")],
            size: 1500,
            pinned: true,
            ..Image::default()
        };
        let used = ["web".to_owned(), "x".to_owned()];
        let expected = [
            ["r.io/a:1", digest.as_str(), "0123456789ab", "1.5 kB", "web, x (pinned)"],
            ["q.io/b:1", "sha256:e", "0123456789ab", "1.5 kB", "web, x (pinned)"],
        ];
        assert_eq!(rows(&image, &used, true), expected);
        let nameless = Image { id: "sha256:0123456789abcdef".into(), ..Image::default() };
        assert_eq!(rows(&nameless, &[], false), [["-", "0123456789ab", "0 B", ""]]);
    }
}
