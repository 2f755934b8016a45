//! From a point to a tree of files: the FUSE view of disks and guestmount's supervision
