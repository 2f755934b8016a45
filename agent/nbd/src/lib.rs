//! NBD client: fixed newstyle, structured replies, block status of several contexts, pipelined
