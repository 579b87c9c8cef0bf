//! Made of the API's description by `cargo xtask docs`: images.

use super::shared::*;
use crate::documents::*;

/// What else can be asked of [`Client::delete_image`].
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DeleteImageArgs {
    /// Also if an app uses it: its instances run on, and it is fetched again for the next one.
    #[serde(skip_serializing_if = "Not::not")]
    pub force: bool,
    /// Check only and change nothing; the answer says what would be done. Also as `dry_run`.
    #[serde(rename = "dryRun", skip_serializing_if = "Not::not")]
    pub dry_run: bool,
}

/// What else can be asked of [`Client::import_images`].
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ImportImagesArgs {
    /// The name that the one image of the archive gets; the archive's own by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// What else can be asked of [`Client::push_image`].
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PushImageArgs {
    /// The name that it is sent under, whose registry gets it; its own by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

impl Client {
    /// Forget an image's name; what no other name has is removed.
    ///
    /// `DELETE /v1/images`
    pub async fn delete_image(&self, name: &str, args: &DeleteImageArgs) -> Result<ImagesChanged, Problem> {
        let asked = Asked::new(Method::DELETE, "/v1/images", &[]).with("name", name).query(args)?;
        self.document(asked).await
    }

    /// The images that the node has.
    ///
    /// `GET /v1/images`
    pub async fn list_images(&self, args: &ListArgs) -> Result<Vec<ImageView>, Problem> {
        let asked = Asked::new(Method::GET, "/v1/images", &[]).query(args)?;
        self.document(asked).await
    }

    /// A tar archive of images, as Docker, Podman and containerd read it.
    ///
    /// `GET /v1/images/export`
    pub async fn export_images(&self, names: &str) -> Result<Download, Problem> {
        let asked = Asked::new(Method::GET, "/v1/images/export", &[]).with("names", names);
        self.download(asked).await
    }

    /// Take the images of a tar archive, an OCI layout or what `docker save` writes. It is looked through as a whole
    /// first.
    ///
    /// `POST /v1/images/import`
    pub async fn import_images(
        &self,
        body: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
        args: &ImportImagesArgs,
    ) -> Result<ImagesChanged, Problem> {
        let asked = Asked::new(Method::POST, "/v1/images/import", &[]).query(args)?;
        self.upload(asked, body).await
    }

    /// An image with its layers and its configuration.
    ///
    /// `GET /v1/images/info`
    pub async fn get_image(&self, name: &str) -> Result<ImageDetails, Problem> {
        let asked = Asked::new(Method::GET, "/v1/images/info", &[]).with("name", name);
        self.document(asked).await
    }

    /// Which of these layers the node does not have. An archive for `/v1/images/import` may leave out the others.
    ///
    /// `POST /v1/images/missing`
    pub async fn missing_layers(&self, body: &Layers) -> Result<Layers, Problem> {
        let asked = Asked::new(Method::POST, "/v1/images/missing", &[]).json(body)?;
        self.document(asked).await
    }

    /// Remove all images that no app uses.
    ///
    /// `POST /v1/images/prune`
    pub async fn prune_images(&self, args: &DryRunArgs) -> Result<ImagesChanged, Problem> {
        let asked = Asked::new(Method::POST, "/v1/images/prune", &[]).query(args)?;
        self.document(asked).await
    }

    /// Fetch an image, also one that is there. Each line says how far it is; the last one has the image, or the
    /// problem.
    ///
    /// `POST /v1/images/pull`
    pub async fn pull_image(&self, name: &str) -> Result<Lines<PullView>, Problem> {
        let asked = Asked::new(Method::POST, "/v1/images/pull", &[]).with("name", name);
        self.lines(asked).await
    }

    /// Send an image to a registry: what that lacks, manifests last. Each line says how far it is; the last one says
    /// what was sent, or has the problem.
    ///
    /// `POST /v1/images/push`
    pub async fn push_image(&self, name: &str, args: &PushImageArgs) -> Result<Lines<PushView>, Problem> {
        let asked = Asked::new(Method::POST, "/v1/images/push", &[]).with("name", name).query(args)?;
        self.lines(asked).await
    }

    /// Give an image another name besides. One with a digest must have its own.
    ///
    /// `POST /v1/images/tag`
    pub async fn tag_image(&self, name: &str, other: &str, args: &DryRunArgs) -> Result<ImagesChanged, Problem> {
        let asked =
            Asked::new(Method::POST, "/v1/images/tag", &[]).with("name", name).with("other", other).query(args)?;
        self.document(asked).await
    }
}
