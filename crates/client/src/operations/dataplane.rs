//! Made of the API's description by `cargo xtask docs`: dataplane.

use crate::documents::*;

/// What else can be asked of [`Client::measure_dataplane`].
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MeasureDataplaneArgs {
    /// For how many seconds: 1 to 60; 5 without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
}

impl Client {
    /// What in the kernel is not as the daemon has written and attached it. It is put right within a minute, and
    /// counted.
    ///
    /// `GET /v1/dataplane/check`
    pub async fn check_dataplane(&self) -> Result<Vec<DifferenceView>, Problem> {
        let asked = Asked::new(Method::GET, "/v1/dataplane/check", &[]);
        self.document(asked).await
    }

    /// How long each of the data plane's programs takes: the kernel measures it for some seconds, which costs every
    /// program a little, and then the answer comes.
    ///
    /// `GET /v1/dataplane/stats`
    pub async fn measure_dataplane(&self, args: &MeasureDataplaneArgs) -> Result<Vec<RunsView>, Problem> {
        let asked = Asked::new(Method::GET, "/v1/dataplane/stats", &[]).query(args)?;
        self.document(asked).await
    }

    /// The tables of the data plane on this node.
    ///
    /// `GET /v1/dataplane/tables`
    pub async fn list_tables(&self) -> Result<Vec<TableView>, Problem> {
        let asked = Asked::new(Method::GET, "/v1/dataplane/tables", &[]);
        self.document(asked).await
    }

    /// The rows of a table, as the kernel has them now, in words.
    ///
    /// `GET /v1/dataplane/tables/{name}`
    pub async fn get_table(&self, name: &str) -> Result<RowsView, Problem> {
        let asked = Asked::new(Method::GET, "/v1/dataplane/tables/{}", &[name]);
        self.document(asked).await
    }
}
