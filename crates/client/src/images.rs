use berth_cri_api::v1::ListImagesRequest;

use crate::ClientError;
use crate::find::short;
use crate::node::Node;
use crate::output::{print, size, table};

pub(crate) async fn images(node: &mut Node, quiet: bool) -> Result<u8, ClientError> {
    let listed = node.images.list_images(ListImagesRequest::default()).await;
    let images = listed.map_err(ClientError::call("list images"))?.into_inner().images;
    if quiet {
        print(&images.iter().map(|image| format!("{}\n", image.id)).collect::<String>())?;
        return Ok(0);
    }
    let mut rows = Vec::new();
    for image in &images {
        let id = image.id.strip_prefix("sha256:").unwrap_or(&image.id);
        let names = if image.repo_tags.is_empty() { &image.repo_digests } else { &image.repo_tags };
        let none = [String::from("-")];
        for name in if names.is_empty() { &none[..] } else { &names[..] } {
            rows.push(vec![name.clone(), short(id).to_owned(), size(image.size)]);
        }
    }
    rows.sort();
    rows.insert(0, ["IMAGE", "ID", "SIZE"].map(str::to_owned).into());
    print(&table(&rows))?;
    Ok(0)
}
