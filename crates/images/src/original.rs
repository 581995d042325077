//! A layer's tar stream for who sends it on: made again from what is unpacked or, where an archive that replaces its own files
//! leaves too little for that, fetched again from where the image came.

use std::fs::File;
use std::io::{BufReader, Read, Seek as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use berth_ids::{Digest, chain};
use berth_registry::{LayerDescriptor, Session, Sources};
use sha2::{Digest as _, Sha256};

use crate::spool::unnamed;
use crate::{Image, ImageError, Shared};

/// Bytes from the network that are written at a time.
const PIECE: usize = 1 << 20;

pub(crate) type Tar = Box<dyn Read + Send>;

impl Shared {
    /// The caller keeps the layer from being collected, and compares what it read with the digest. Blocks, in a thread of the
    /// runtime.
    pub(crate) fn tar(&self, id: &Digest, ended: &AtomicBool) -> Result<Tar, ImageError> {
        if let Some(stream) = self.stream(id)? {
            return Ok(Box::new(stream));
        }
        let lost = |why: String| ImageError::Unrestorable { layer: id.clone(), why };
        let runtime = tokio::runtime::Handle::try_current().map_err(|error| lost(error.to_string()))?;
        let file = runtime.block_on(self.original(id, ended)).map_err(lost)?;
        let fail = |error| ImageError::file("read a layer that was fetched again to", &self.root)(error);
        let plain = berth_unpack::decoder(BufReader::with_capacity(1 << 18, file)).map_err(fail)?;
        Ok(Box::new(plain))
    }

    /// From the first place that has it; else why the last one did not give it.
    async fn original(&self, layer: &Digest, ended: &AtomicBool) -> Result<File, String> {
        let mut why = "no registry is known that has it".to_owned();
        let having: Vec<Arc<Image>> =
            self.all().into_iter().filter(|image| image.layers.contains(layer)).collect();
        for image in having {
            for pinned in &image.repo_digests {
                let fetched = match self.place(layer, &image, pinned, None).await {
                    Ok((session, blob)) => {
                        let mut sources = Sources::default();
                        loop {
                            match self.spooled(&session, &blob, &mut sources, ended).await {
                                // A place gave other bytes: the next is asked.
                                Err(error) if error.is_of_place() && sources.blame(&session) => {
                                    tracing::warn!(
                                        blob = %blob.digest,
                                        error = &error as &dyn std::error::Error,
                                        "a place gives other bytes than the layer's; the next is asked"
                                    );
                                }
                                done => break done,
                            }
                        }
                    }
                    Err(error) => Err(error),
                };
                match fetched {
                    Ok(file) => return Ok(file),
                    Err(error) => why = chain(&error),
                }
            }
        }
        Err(why)
    }

    /// A blob in a file that nobody can see, checked.
    async fn spooled(
        &self,
        session: &Session,
        blob: &LayerDescriptor,
        sources: &mut Sources,
        ended: &AtomicBool,
    ) -> Result<File, ImageError> {
        let fail = |error| ImageError::file("write a layer that is fetched again to", &self.root)(error);
        let (mut file, mut hash) = (unnamed(&self.root)?, Sha256::new());
        let mut stream = session.blob(blob, 0..blob.size, sources).await?;
        let mut piece = Vec::with_capacity(PIECE);
        loop {
            let bytes = stream.chunk().await?;
            piece.extend_from_slice(bytes.as_deref().unwrap_or_default());
            if piece.len() >= PIECE || bytes.is_none() {
                if ended.load(Ordering::Relaxed) {
                    return Err(ImageError::Lost { reference: session.reference().to_string() });
                }
                // This thread is one that may block.
                hash.update(&piece);
                file.write_all(&piece).map_err(fail)?;
                piece.clear();
            }
            if bytes.is_none() {
                break;
            }
        }
        let found = Digest::from_sha256(hash.finalize().into());
        if found != blob.digest {
            return Err(ImageError::Blob { wanted: blob.digest.clone(), found });
        }
        file.rewind().map_err(fail)?;
        Ok(file)
    }
}
