module remora.dev/sdk

go 1.24
