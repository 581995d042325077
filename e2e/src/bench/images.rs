//! A thousand images listed: of one layer, in an archive's directory that is imported. The answers are counted once and then
//! timed as bytes: reading them is the client's, and this one is built without optimization.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};
use berth_cri_api::v1::ImageFsInfoRequest;
use bytes::Buf as _;
use serde_json::{Value, json};
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Request, Status};

use super::figures::Series;
use crate::client::Client;
use crate::daemon::Daemon;
use crate::image::{
    ARCHITECTURE, CONFIG, LAYER, LAYOUT, Layer, MANIFEST, config_of, described, digest, manifest_of,
};

/// One archive has no more.
pub(crate) const IMAGES: usize = 1000;
const ROUNDS: usize = 30;

/// ListImages and StreamImages.
pub(super) async fn listed(daemon: &Daemon) -> Result<[Series; 2]> {
    let layout = daemon.path("thousand");
    write(&layout)?;
    daemon.import_file(&layout)?;
    let mut client = Client::connect(&daemon.socket()).await?;
    let (found, mut sum) = (client.images().await?, 0);
    let mut parts = client.stream_images().await?;
    while let Some(part) = parts.message().await? {
        sum += part.images.len();
    }
    ensure!((found, sum) == (IMAGES, IMAGES), "{found} and {sum} images are listed instead of {IMAGES}");
    let mut grpc = Grpc::new(client.channel);
    let (mut unary, mut streamed) = (Series::default(), Series::default());
    for _ in 0..ROUNDS {
        grpc.ready().await?;
        let path = PathAndQuery::from_static("/runtime.v1.ImageService/ListImages");
        let since = Instant::now();
        let whole = grpc.unary(Request::new(()), path, Lengths).await?.into_inner();
        unary.push(since.elapsed());
        grpc.ready().await?;
        let path = PathAndQuery::from_static("/runtime.v1.ImageService/StreamImages");
        let since = Instant::now();
        let mut parts = grpc.server_streaming(Request::new(()), path, Lengths).await?.into_inner();
        let mut sum = 0;
        while let Some(part) = parts.message().await? {
            sum += part;
        }
        streamed.push(since.elapsed());
        ensure!(whole > 50 * IMAGES && sum >= whole, "the answers have {whole} and {sum} bytes");
    }
    Ok([unary, streamed])
}

/// ImageFsInfo, and the bytes that it says.
pub(super) async fn asked(daemon: &Daemon) -> Result<(Series, u64)> {
    let mut client = Client::connect(&daemon.socket()).await?;
    let (mut series, mut told) = (Series::default(), 0);
    for _ in 0..ROUNDS {
        let since = Instant::now();
        let answer = client.images.image_fs_info(ImageFsInfoRequest::default()).await?.into_inner();
        series.push(since.elapsed());
        let used = answer.image_filesystems.first().and_then(|found| found.used_bytes);
        told = used.map_or(0, |used| used.value);
    }
    Ok((series, told))
}

/// Requests of nothing, and answers of which only the length is wanted.
#[derive(Clone, Copy)]
struct Lengths;

impl Codec for Lengths {
    type Encode = ();
    type Decode = usize;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Lengths {
    type Item = ();
    type Error = Status;

    fn encode(&mut self, (): (), _: &mut EncodeBuf<'_>) -> Result<(), Status> {
        Ok(())
    }
}

impl Decoder for Lengths {
    type Item = usize;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<usize>, Status> {
        let length = from.remaining();
        from.advance(length);
        Ok(Some(length))
    }
}

/// An OCI layout.
fn write(at: &Path) -> Result<()> {
    let blobs = at.join("blobs/sha256");
    std::fs::create_dir_all(&blobs)?;
    let put = |kind: &str, bytes: &[u8]| -> Result<Value> {
        std::fs::write(blobs.join(digest(bytes).trim_start_matches("sha256:")), bytes)?;
        Ok(described(kind, bytes))
    };
    let mut layer = Layer::default();
    layer.file("file", b"of all", 0o644)?;
    let layer = layer.into_tar()?;
    let (diff_id, layer) = (digest(&layer), [put(LAYER, &layer)?]);
    let mut manifests = Vec::new();
    for n in 0..IMAGES {
        let config = json!({ "Env": [format!("N={n}")], "User": "1000" });
        let config = config_of(ARCHITECTURE, &config, &[&diff_id]);
        let manifest = manifest_of(&put(CONFIG, config.to_string().as_bytes())?, &layer);
        let mut entry = put(MANIFEST, manifest.to_string().as_bytes())?;
        entry["annotations"] =
            json!({ "io.containerd.image.name": format!("registry.test/team/service-{n}:v1.{n}") });
        manifests.push(entry);
    }
    std::fs::write(at.join("index.json"), json!({ "schemaVersion": 2, "manifests": manifests }).to_string())?;
    Ok(std::fs::write(at.join("oci-layout"), LAYOUT)?)
}
