//! Where everything in the image lies, and the bytes of its tables.

use remora_core::{Error, ErrorKind, Extent, ExtentState, Result};

use crate::bitmap::ClusterSet;

/// The size of a cluster, qcow2's unit of allocation.
pub const CLUSTER_SIZE: u64 = 1 << CLUSTER_BITS;

const CLUSTER_BITS: u32 = 16;
/// Entries of 8 bytes in one cluster: of an L1 table, an L2 table or the refcount table.
const ENTRIES: u64 = CLUSTER_SIZE / 8;
/// Refcounts of 16 bits in one cluster.
const REFCOUNTS: u64 = CLUSTER_SIZE / 2;
/// "This cluster's refcount is exactly one", which spares QEMU a look at the refcounts before it writes there.
const COPIED: u64 = 1 << 63;
/// QEMU opens no image with a larger L1 table (32 MiB of it); it maps 2 PiB.
const MAX_L1_ENTRIES: u64 = 32 * 1024 * 1024 / 8;
const REFCOUNT_ORDER: u32 = 4;
const HEADER_LENGTH: u32 = 104;

/// The placement of all parts of one image, in clusters of the file: header, refcount table, refcount blocks, L1 table,
/// L2 tables, data.
#[derive(Clone, Debug)]
pub struct Layout {
    size: u64,
    data: ClusterSet,
    refcount_table: u64,
    refcount_blocks: u64,
    l1: u64,
    l2: u64,
}

impl Layout {
    /// For a disk of `size` bytes, of which the `Data` extents will be written; everything else reads as zero. Extents
    /// may touch and overlap, and come in any order. A size that is no multiple of 512 is rounded up to one, for qcow2
    /// disks consist of sectors; what is added reads as zero.
    ///
    /// # Errors
    /// `Invalid` for an extent beyond the end, for `Unchanged` ones (there is no backing file), and for disks beyond
    /// QEMU's limit of 2 PiB.
    pub fn new(size: u64, extents: impl IntoIterator<Item = Extent>) -> Result<Self> {
        if size > MAX_L1_ENTRIES * ENTRIES * CLUSTER_SIZE {
            return Err(Error::new(ErrorKind::Invalid, format!("a disk of {size} bytes is too large for qcow2"))
                .advise("Choose the raw format."));
        }
        let mut data = ClusterSet::new(size.div_ceil(CLUSTER_SIZE));
        for Extent { range, state } in extents {
            if range.end > size || state == ExtentState::Unchanged {
                let what = format!("{range} ({state:?}) cannot be laid out in a qcow2 of {size} bytes");
                return Err(Error::new(ErrorKind::Invalid, what));
            }
            if state == ExtentState::Data && !range.is_empty() {
                data.insert(range.start / CLUSTER_SIZE..range.end.div_ceil(CLUSTER_SIZE));
            }
        }
        Ok(Self::place(size.next_multiple_of(512), data))
    }

    fn place(size: u64, data: ClusterSet) -> Self {
        let l1 = Self::l1_entries_of(size).div_ceil(ENTRIES);
        let mut layout = Self { size, data, refcount_table: 1, refcount_blocks: 1, l1, l2: 0 };
        layout.l2 = layout.mapped_l1_entries().count() as u64;
        // Refcounts count themselves: grow until they suffice. Each round adds less, so this ends.
        loop {
            let blocks = layout.clusters().div_ceil(REFCOUNTS);
            let table = blocks.div_ceil(ENTRIES);
            if (table, blocks) == (layout.refcount_table, layout.refcount_blocks) {
                return layout;
            }
            (layout.refcount_table, layout.refcount_blocks) = (table, blocks);
        }
    }

    /// The size of the disk as the image's users see it, in bytes.
    pub const fn virtual_size(&self) -> u64 {
        self.size
    }

    /// The length of the whole image file, in bytes.
    pub const fn file_size(&self) -> u64 {
        self.clusters() * CLUSTER_SIZE
    }

    /// What comes before the data, one cluster after the other. Made as it is asked for: the tables of a full disk of
    /// 1 TiB take 128 MiB.
    pub fn metadata(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        std::iter::once(self.header())
            .chain(tables(self.refcount_table, (0..self.refcount_blocks).map(|n| self.refcount_blocks_at() + n)))
            .chain((0..self.refcount_blocks).map(|n| self.refcount_block(n)))
            .chain(self.l1_tables())
            .chain(self.l2_tables())
    }

    /// Which clusters of the disk are in the file.
    pub(crate) const fn data(&self) -> &ClusterSet {
        &self.data
    }

    const fn l1_entries_of(size: u64) -> u64 {
        let entries = size.div_ceil(ENTRIES * CLUSTER_SIZE);
        // The table of an empty disk has one entry, too: `qemu-img check` calls a table without entries leaked.
        if entries == 0 { 1 } else { entries }
    }

    /// The L1 entries that need an L2 table, because some cluster below them holds data.
    fn mapped_l1_entries(&self) -> impl Iterator<Item = u64> + '_ {
        let mut from = 0;
        std::iter::from_fn(move || {
            let entry = self.data.next(from)? / ENTRIES;
            from = (entry + 1) * ENTRIES;
            Some(entry)
        })
    }

    const fn clusters(&self) -> u64 {
        self.data_at() + self.data.len()
    }

    const fn refcount_blocks_at(&self) -> u64 {
        1 + self.refcount_table
    }

    const fn l1_at(&self) -> u64 {
        self.refcount_blocks_at() + self.refcount_blocks
    }

    const fn l2_at(&self) -> u64 {
        self.l1_at() + self.l1
    }

    const fn data_at(&self) -> u64 {
        self.l2_at() + self.l2
    }

    /// The header as QEMU's `docs/interop/qcow2.txt` has it, with an empty list of extensions behind it.
    fn header(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(CLUSTER_SIZE as usize);
        let fields: [&[u8]; 17] = [
            b"QFI\xfb",
            &3_u32.to_be_bytes(),
            &[0; 12], // no backing file
            &CLUSTER_BITS.to_be_bytes(),
            &self.size.to_be_bytes(),
            &[0; 4], // not encrypted
            &(Self::l1_entries_of(self.size) as u32).to_be_bytes(),
            &(self.l1_at() * CLUSTER_SIZE).to_be_bytes(),
            &CLUSTER_SIZE.to_be_bytes(), // the refcount table follows the header
            &(self.refcount_table as u32).to_be_bytes(),
            &[0; 4], // no snapshots
            &[0; 8],
            &[0; 8], // no incompatible,
            &[0; 8], // compatible
            &[0; 8], // or autoclear features
            &REFCOUNT_ORDER.to_be_bytes(),
            &HEADER_LENGTH.to_be_bytes(),
        ];
        for field in fields {
            bytes.extend_from_slice(field);
        }
        debug_assert_eq!(bytes.len(), HEADER_LENGTH as usize);
        bytes.resize(CLUSTER_SIZE as usize, 0);
        bytes
    }

    /// Refcounts of one for all clusters of the file, zero behind its end.
    fn refcount_block(&self, number: u64) -> Vec<u8> {
        let used = (self.clusters() - number * REFCOUNTS).min(REFCOUNTS) as usize;
        let mut bytes = 1_u16.to_be_bytes().repeat(used);
        bytes.resize(CLUSTER_SIZE as usize, 0);
        bytes
    }

    fn l1_tables(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        let mut mapped = self.mapped_l1_entries().zip(self.l2_at()..).peekable();
        let entries = (0..self.l1 * ENTRIES).map(move |entry| match mapped.next_if(|(next, _)| *next == entry) {
            Some((_, cluster)) => (cluster * CLUSTER_SIZE) | COPIED,
            None => 0,
        });
        clusters_of(entries)
    }

    fn l2_tables(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        let mut next_data = self.data_at();
        let entries = self.mapped_l1_entries().flat_map(|l1| l1 * ENTRIES..(l1 + 1) * ENTRIES).map(move |cluster| {
            if !self.data.contains(cluster) {
                return 0;
            }
            let entry = (next_data * CLUSTER_SIZE) | COPIED;
            next_data += 1;
            entry
        });
        clusters_of(entries)
    }
}

/// A table of `clusters` clusters that points at whole clusters, in order.
fn tables(clusters: u64, targets: impl Iterator<Item = u64>) -> impl Iterator<Item = Vec<u8>> {
    let entries = targets.map(|cluster| cluster * CLUSTER_SIZE).chain(std::iter::repeat(0));
    clusters_of(entries.take((clusters * ENTRIES) as usize))
}

/// Packs entries into clusters; their count is a multiple of what fits.
fn clusters_of(mut entries: impl Iterator<Item = u64>) -> impl Iterator<Item = Vec<u8>> {
    std::iter::from_fn(move || {
        let mut bytes = Vec::with_capacity(CLUSTER_SIZE as usize);
        for entry in entries.by_ref().take(ENTRIES as usize) {
            bytes.extend_from_slice(&entry.to_be_bytes());
        }
        (!bytes.is_empty()).then_some(bytes)
    })
}
