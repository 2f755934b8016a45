//! Write a mover that keeps points in a form of its own, see `wit/mover/0.1.0/volume.wit`.
//!
//! It sees disks in the clear, of the machines that the administrator bound it to. Requests, secrets and errors are those of
//! [`crate::objects`]; `sdk/examples/appliance` is a whole mover.

pub use crate::bindings::volumes::exports::remora::mover::volume::{
    Capabilities, Content, Disk, Extent, NewPoint, Page, Point,
};

use crate::Invalid;
use crate::objects::{Buffer, Error, Sink};

/// The mover, with its store open.
pub trait Mover: Sized + 'static {
    /// The `settings` of the mover's document. Let serde deny unknown fields: then the one who mistyped one is told.
    type Settings: serde::de::DeserializeOwned;

    /// Looks at the settings without asking the store.
    fn check(settings: &Self::Settings) -> Result<(), Invalid>;

    /// Opens the store.
    fn open(settings: Self::Settings) -> Result<(Self, Capabilities), Error>;

    /// Begins a point, and gives what goes on with it: it is not visible before `commit`. One that was begun and never committed
    /// is begun anew.
    fn begin(&self, point: &NewPoint) -> Result<String, Error>;

    /// Stores bytes at an offset of a disk, which is named by its place in the list.
    fn write(&self, id: &str, token: &str, disk: u32, offset: u64, data: &Buffer) -> Result<(), Error>;

    /// Notes a range of zeros.
    fn zero(&self, id: &str, token: &str, disk: u32, offset: u64, len: u64) -> Result<(), Error>;

    /// Notes a range that is as in the parent.
    fn unchanged(&self, id: &str, token: &str, disk: u32, offset: u64, len: u64) -> Result<(), Error>;

    /// Makes the point visible, durable and whole, or fails.
    fn commit(&self, id: &str, token: &str) -> Result<(), Error>;

    /// Gives a point up that is not committed.
    fn abort(&self, id: &str, token: &str) -> Result<(), Error>;

    /// The points of one machine, or of all, oldest first; or what follows the page that gave `token`.
    fn list(&self, vm: Option<&str>, token: Option<&str>) -> Result<Page, Error>;

    /// The extents of a range of a disk: in order, without gaps.
    fn extents(&self, point: &str, disk: u32, offset: u64, len: u64) -> Result<Vec<Extent>, Error>;

    /// Fetches exactly `len` bytes from `offset` on.
    fn read(&self, point: &str, disk: u32, offset: u64, len: u64, into: &Sink) -> Result<(), Error>;

    /// Deletes a point; later ones that were made from it stay whole.
    fn delete(&self, point: &str) -> Result<(), Error>;
}

/// Makes a component of a [`Mover`].
#[macro_export]
macro_rules! volumes {
    ($mover:ty) => {
        const _: () = {
            use ::std::rc::Rc;
            use $crate::bindings::volumes::exports::remora::mover::volume as wit;
            use $crate::objects::{Buffer, Error, Sink};
            use $crate::volumes::{Capabilities, Extent, Mover, NewPoint, Page};

            struct Component;
            struct Store(Rc<$mover>);
            struct Writer {
                mover: Rc<$mover>,
                id: String,
                token: String,
            }

            impl wit::Guest for Component {
                type Store = Store;
                type Writer = Writer;

                fn validate(settings: String) -> Result<(), Vec<wit::FieldError>> {
                    let checked = $crate::configure(&settings, |settings| <$mover as Mover>::check(&settings));
                    checked.map_err(|invalid| {
                        let errors = invalid.into_iter();
                        errors.map(|(path, message)| wit::FieldError { path, message }).collect()
                    })
                }

                fn open(settings: String) -> Result<(wit::Store, Capabilities), Error> {
                    let settings = $crate::configure(&settings, Ok).map_err(|_| {
                        Error::new($crate::objects::Class::Invalid, "settings", "the settings cannot be read")
                    })?;
                    let (mover, can) = <$mover as Mover>::open(settings)?;
                    Ok((wit::Store::new(Store(Rc::new(mover))), can))
                }
            }

            impl wit::GuestStore for Store {
                fn begin(&self, point: NewPoint) -> Result<wit::Writer, Error> {
                    let token = self.0.begin(&point)?;
                    Ok(wit::Writer::new(Writer { mover: self.0.clone(), id: point.id, token }))
                }

                fn resume(&self, id: String, token: String) -> Result<wit::Writer, Error> {
                    Ok(wit::Writer::new(Writer { mover: self.0.clone(), id, token }))
                }

                fn list(&self, vm_name: Option<String>, token: Option<String>) -> Result<Page, Error> {
                    self.0.list(vm_name.as_deref(), token.as_deref())
                }

                fn extents(&self, point: String, disk: u32, offset: u64, len: u64) -> Result<Vec<Extent>, Error> {
                    self.0.extents(&point, disk, offset, len)
                }

                fn read(&self, point: String, disk: u32, offset: u64, len: u64, into: &Sink) -> Result<(), Error> {
                    self.0.read(&point, disk, offset, len, into)
                }

                fn delete(&self, point: String) -> Result<(), Error> {
                    self.0.delete(&point)
                }
            }

            impl wit::GuestWriter for Writer {
                fn token(&self) -> String {
                    self.token.clone()
                }

                fn write(&self, disk: u32, offset: u64, data: &Buffer) -> Result<(), Error> {
                    self.mover.write(&self.id, &self.token, disk, offset, data)
                }

                fn zero(&self, disk: u32, offset: u64, len: u64) -> Result<(), Error> {
                    self.mover.zero(&self.id, &self.token, disk, offset, len)
                }

                fn unchanged(&self, disk: u32, offset: u64, len: u64) -> Result<(), Error> {
                    self.mover.unchanged(&self.id, &self.token, disk, offset, len)
                }

                fn commit(&self) -> Result<(), Error> {
                    self.mover.commit(&self.id, &self.token)
                }

                fn abort(&self) -> Result<(), Error> {
                    self.mover.abort(&self.id, &self.token)
                }
            }

    $crate::bindings::volumes::export!(Component with_types_in $crate::bindings::volumes);
        };
    };
}
