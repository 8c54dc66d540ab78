# UPG's build. `make` builds build/upg, build/libupg.a and build/libupg.so; `make demo` and `make test` also install what is
# missing. SAN=address,undefined builds everything under sanitizers in its own folder. CC=clang works too.
CC      ?= cc
SAN     ?=
V       ?=
Q       := $(if $V,,@)
PREFIX  ?= /usr/local
B       := build$(if $(SAN),/san)
PKGS    := openblas libxxhash libzstd libutf8proc
CLI_PKGS := libedit libmicrohttpd libseccomp
VERSION := $(shell cat VERSION)

ifneq ($(filter-out setup check-format format clean,$(or $(MAKECMDGOALS),all)),)
ifneq ($(filter demo test bench fuzz,$(MAKECMDGOALS)),)
# The commands a newcomer types install what is missing before anything is looked up.
SETUP := $(shell tools/setup.sh $(MAKECMDGOALS) >&2 || echo failed)
ifneq ($(SETUP),)
$(error tools/setup.sh failed: see above)
endif
endif
ifneq ($(shell pkg-config --exists $(PKGS) $(CLI_PKGS) && echo ok),ok)
$(error libraries are missing ($(PKGS) $(CLI_PKGS)); run tools/setup.sh, which installs them)
endif
endif

CFLAGS ?= -O3 -g
# Exactness (docs/arithmetic.md) rests on these: no contraction, no reassociation. errno and traps are not observed.
BASE_FLAGS := -std=c11 -Wall -Wextra -Wshadow -Wvla -Werror -fno-math-errno -fno-trapping-math -ffp-contract=off -fvisibility=hidden \
  -fPIC -pthread -D_GNU_SOURCE -DUPG_VERSION='"$(VERSION)"' -Iinclude -Isrc -Ithird_party/yyjson $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
ifneq ($(SAN),)
CFLAGS     := -O1 -g
BASE_FLAGS += -fsanitize=$(SAN) -fno-sanitize-recover=all -fno-omit-frame-pointer
endif
# NVIDIA's GPUs: their kernels are built where there is nvcc of CUDA 12.8 or newer (CUDA=0: not, CUDA=1: or it is an
# error); the driver is loaded at run time. 90a is Hopper with its own instructions. Other GPUs translate the PTX.
CUDA_HOME  ?= $(firstword $(wildcard /usr/local/cuda /usr/lib/cuda))
NVCC       ?= $(or $(shell command -v nvcc 2>/dev/null),$(wildcard $(CUDA_HOME)/bin/nvcc))
CUDA       ?= $(if $(filter compute_120,$(if $(NVCC),$(shell $(NVCC) --list-gpu-arch))),1,0)
COMMA      := ,
CUDA_ARCHS ?= 75 80 86 89 90a 100 120
NVCC_FLAGS := -O3 -std=c++17 -fmad=false -ftz=true -prec-div=true -prec-sqrt=true --threads 2 --compress-mode=size -Isrc \
  $(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$a,code=sm_$a) \
  $(if $(filter-out 90a,$(CUDA_ARCHS)),-gencode arch=compute_80$(COMMA)code=compute_80)
ifeq ($(CUDA),1)
BASE_FLAGS += -DUPG_CUDA
CUDA_OBJ   := $B/src/backend/cuda/kernels.o
else
OTHERS     += src/backend/cuda/%
endif
LIBS := $(shell pkg-config --libs $(PKGS) 2>/dev/null) -lm -pthread
CLI_LIBS := $(shell pkg-config --libs $(CLI_PKGS) 2>/dev/null)

ARCH := $(shell $(CC) -dumpmachine | cut -d- -f1)
ifeq ($(ARCH),x86_64)
SSE41_FLAGS  := -msse4.1 -mpopcnt
AVX2_FLAGS   := -mavx2 -mfma -mf16c
AVXVNNI_FLAGS := $(AVX2_FLAGS) -mavxvnni
AVX512_FLAGS := -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mavx512vbmi -mavx512vbmi2 -mfma -mf16c -mprefer-vector-width=512
else
OTHERS += %_sse41.c %_avx2.c %_avxvnni.c %_avx512.c %_amx.c
endif
ifneq ($(filter aarch64 arm64,$(ARCH)),)
DOTPROD_FLAGS := -march=armv8.2-a+dotprod
I8MM_FLAGS    := -march=armv8.2-a+dotprod+i8mm
else
OTHERS += %_neon.c %_dotprod.c %_i8mm.c
endif

SRC      := $(filter-out $(OTHERS),$(shell find src -name '*.c' -not -path 'src/cli/*' -not -path 'src/server/*'))
SERVER_SRC := $(wildcard src/server/*.c)
CLI_SRC  := $(wildcard src/cli/*.c)
LIB_OBJ  := $(SRC:%.c=$B/%.o) $(CUDA_OBJ) $B/src/compress/default_text_data.o $B/third_party/yyjson/yyjson.o
# As much of the library as can be built for another processor without the libraries behind it: tests/isa/test_isa.sh.
ISA_OBJ  := $(filter $(addprefix $B/src/,base/% codec/% program/% arch/% backend/cpu/% backend/gpu/% backend/cuda/% backend/batch.o format/% engine/sample.o),$(SRC:%.c=$B/%.o)) $(CUDA_OBJ) $B/third_party/yyjson/yyjson.o
SERVER_OBJ := $(SERVER_SRC:%.c=$B/%.o) $B/src/server/openapi_data.o
CLI_OBJ  := $(CLI_SRC:%.c=$B/%.o) $B/src/cli/default_model.o
TESTS    := $(patsubst %.c,$B/%,$(shell find tests -name 'test_*.c'))
BENCHES  := $(patsubst %.c,$B/%,$(wildcard bench/*.c))
FUZZERS  := $(patsubst tests/fuzz/%.c,build/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))
FORMATTED = $(shell git ls-files '*.c' '*.h' '*.cu' '*.cuh' ':!third_party')

.PHONY: all setup demo test bench fuzz check-format format install clean
.SECONDARY:
all: $B/upg $B/libupg.a $B/libupg.so

$B/%_sse41.o: ISA_FLAGS = $(SSE41_FLAGS)
$B/%_avx2.o: ISA_FLAGS = $(AVX2_FLAGS)
$B/%_avxvnni.o: ISA_FLAGS = $(AVXVNNI_FLAGS)
$B/%_avx512.o: ISA_FLAGS = $(AVX512_FLAGS)
$B/%_amx.o: ISA_FLAGS = $(AVX512_FLAGS) -mamx-tile -mamx-int8
$B/%_dotprod.o: ISA_FLAGS = $(DOTPROD_FLAGS)
$B/%_i8mm.o: ISA_FLAGS = $(I8MM_FLAGS)
$B/%.o: %.c
	@mkdir -p $(@D)
	$(if $V,,@echo "  CC   $@")
	$Q$(CC) $(CFLAGS) $(BASE_FLAGS) $(ISA_FLAGS) -MMD -MP -c $< -o $@
# The undefined-behaviour sanitizer takes ten minutes over yyjson.c, which is not ours to check.
$B/third_party/%.o: third_party/%.c
	@mkdir -p $(@D)
	$(if $V,,@echo "  CC   $@")
	$Q$(CC) -O2 -g1 -fPIC -fvisibility=hidden $(if $(SAN),-fsanitize=$(SAN)) -fno-sanitize=undefined -c $< -o $@
$B/src/backend/cuda/cuda.o: ISA_FLAGS = -I$(CUDA_HOME)/include
$B/src/backend/cuda/kernels.fatbin: src/backend/cuda/kernels.cu $(wildcard src/backend/cuda/*.cuh src/backend/cuda/args.h src/kernels/*.h)
	@mkdir -p $(@D)
	$(if $V,,@echo "  NVCC $@")
	$Q$(NVCC) -fatbin $(NVCC_FLAGS) $< -o $@
$B/src/backend/cuda/kernels.o: src/backend/cuda/kernels.S $B/src/backend/cuda/kernels.fatbin
	$(if $V,,@echo "  AS   $@")
	$Q$(CC) -c -DFATBIN='"$B/src/backend/cuda/kernels.fatbin"' $< -o $@
$B/%.o: %.S
	@mkdir -p $(@D)
	$(if $V,,@echo "  AS   $@")
	$Q$(CC) -c $< -o $@
$B/src/cli/default_model.o: models/tales.upg
$B/src/server/openapi_data.o: src/server/openapi.json
$B/src/compress/default_text_data.o: data/calibration.txt data/heldout.txt
$B/libupg.a: $(LIB_OBJ)
	$(if $V,,@echo "  AR   $@")
	$Qrm -f $@ && $(AR) rcs $@ $^
$B/libupg.so: $(LIB_OBJ) src/libupg.map
	$(if $V,,@echo "  LD   $@")
	$Q$(CC) -shared $(CFLAGS) $(if $(SAN),-fsanitize=$(SAN)) -Wl,-soname,libupg.so.0 -Wl,--version-script=src/libupg.map $(filter %.o,$^) $(LIBS) -o $@
# Not a part of the library: what needs an HTTP server has one.
$B/libserver.a: $(SERVER_OBJ)
	$(if $V,,@echo "  AR   $@")
	$Qrm -f $@ && $(AR) rcs $@ $^
$B/upg: $(CLI_OBJ) $B/libserver.a $B/libupg.a
	$(if $V,,@echo "  LD   $@")
	$Q$(CC) $(CFLAGS) $(if $(SAN),-fsanitize=$(SAN)) $^ $(CLI_LIBS) $(LIBS) -o $@
$B/tests/%: $B/tests/%.o $B/libupg.a
	$(if $V,,@echo "  LD   $@")
	$Q$(CC) $(CFLAGS) $(if $(SAN),-fsanitize=$(SAN)) $^ -lcmocka -lpcre2-8 $(LIBS) -o $@
# A driver for tests where there is no GPU.
$B/tests/cuda/fake_driver.o: ISA_FLAGS = -I$(CUDA_HOME)/include
$B/tests/cuda/fake/libcuda.so.1: $B/tests/cuda/fake_driver.o $B/libupg.a
	@mkdir -p $(@D)
	$(if $V,,@echo "  LD   $@")
	$Q$(CC) -shared $(CFLAGS) $(if $(SAN),-fsanitize=$(SAN)) $^ $(LIBS) -o $@
$B/tests/cuda/fake/libcublas.so.13 $B/tests/cuda/fake/libcusolver.so.12: $B/tests/cuda/fake_blas.o
	@mkdir -p $(@D)
	$(if $V,,@echo "  LD   $@")
	$Q$(CC) -shared $(CFLAGS) $(if $(SAN),-fsanitize=$(SAN)) $^ $(LIBS) -o $@
define LINK_ISA
	@mkdir -p $(@D)
	$(if $V,,@echo "  LD   $@")
	$Q$(CC) $(CFLAGS) $(if $(SAN),-fsanitize=$(SAN)) $^ $(LIBS) -o $@
endef
$B/isa/%: $B/tests/isa/%.o $B/libupg.a
	$(LINK_ISA)
$B/isa/%: $B/tests/program/%.o $B/libupg.a
	$(LINK_ISA)
$B/isa/%: $B/bench/%.o $B/libupg.a
	$(LINK_ISA)
# Tests of the command's own parts, all but its main().
$B/libcli.a: $(filter-out %/main.o,$(CLI_OBJ))
	$(if $V,,@echo "  AR   $@")
	$Qrm -f $@ && $(AR) rcs $@ $^
$B/tests/cli/%: $B/tests/cli/%.o $B/libcli.a $B/libserver.a $B/libupg.a
	$(if $V,,@echo "  LD   $@")
	$Q$(CC) $(CFLAGS) $(if $(SAN),-fsanitize=$(SAN)) $^ -lcmocka $(CLI_LIBS) $(LIBS) -o $@
$B/tests/server/%: $B/tests/server/%.o $B/libserver.a $B/libupg.a
	$(if $V,,@echo "  LD   $@")
	$Q$(CC) $(CFLAGS) $(if $(SAN),-fsanitize=$(SAN)) $^ -lcmocka $(CLI_LIBS) $(LIBS) -o $@
$B/bench/%: $B/bench/%.o $B/libupg.a
	$(if $V,,@echo "  LD   $@")
	$Q$(CC) $(CFLAGS) $(if $(SAN),-fsanitize=$(SAN)) $^ $(LIBS) -o $@
-include $(shell find $B -name '*.d' 2>/dev/null)

setup:
	tools/setup.sh demo test bench fuzz
demo: $B/upg
	tools/demo.sh $B/upg
test: $B/upg $B/libupg.so $(TESTS) $B/isa/logits $(if $(CUDA_OBJ),$(addprefix $B/tests/cuda/fake/,libcuda.so.1 libcublas.so.13 libcusolver.so.12))
	tests/run.sh $B
bench: $B/upg $(BENCHES)
	bench/run.sh $B
build/fuzz/%: tests/fuzz/%.c $(SRC) $(SERVER_SRC)
	@mkdir -p $(@D)
	tests/fuzz/build.sh $< $@
fuzz: $(FUZZERS)
	tests/fuzz/run.sh $(FUZZERS)
check-format:
	clang-format --dry-run -Werror $(FORMATTED)
format:
	clang-format -i $(FORMATTED)
install: all
	install -D $B/upg $(DESTDIR)$(PREFIX)/bin/upg
	install -D -m 644 $B/libupg.a $(DESTDIR)$(PREFIX)/lib/libupg.a
	install -D -m 644 $B/libupg.so $(DESTDIR)$(PREFIX)/lib/libupg.so.0
	ln -sf libupg.so.0 $(DESTDIR)$(PREFIX)/lib/libupg.so
	install -D -m 644 include/upg.h $(DESTDIR)$(PREFIX)/include/upg.h
clean:
	rm -rf build
