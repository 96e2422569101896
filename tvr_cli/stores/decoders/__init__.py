"""Back-ends of `tvr_cli.stores.decode.Decoder`, one file each."""
