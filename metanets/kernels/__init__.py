"""Operations of metanets, each beside its plain reference; see `modelzoo.kernels`."""
