/* Batch normalisation, shortcut and ReLU in one pass over bfloat16 activations in channels-last memory.

   An activation [N, C, H, W] in that memory is a list of N * H * W pixels of C numbers each. It is read here as rows of
   `width` numbers, a multiple of LANES and of C, so that the inner loop has a fixed length and becomes vector code for any
   C; what belongs to a channel is repeated along the row. All arithmetic is float32, sums of sums are double. Sums are
   taken block by block, and a block does not depend on the number of threads: neither do the results. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { LANES = 64, BLOCK = 256 /* rows */ };
typedef uint16_t bf16;

static inline float wide(bf16 value) {
    uint32_t bits = (uint32_t)value << 16;
    float result;
    memcpy(&result, &bits, sizeof result);
    return result;
}

/* To the nearest, ties to even, as torch rounds; a NaN stays one, so that a diverged training is noticed. */
static inline bf16 narrow(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return value != value ? 0x7fc0 : (bf16)rounded;
}

/* Sums by channel, first[C] and second[C]: of x and x * x if there is no gradient, else of the gradient before the ReLU
   and of that times x. Returns 0, or 1 if there is no memory. */
static int sums(const bf16 *gradient, const bf16 *output, const bf16 *x, long rows, int width, int channels,
                double *first, double *second, int threads) {
    long blocks = (rows + BLOCK - 1) / BLOCK;
    float *parts = malloc(sizeof(float) * 2 * blocks * width);
    if (!parts) return 1;
#pragma omp parallel for num_threads(threads)
    for (long block = 0; block < blocks; block++) {
        long end = (block + 1) * BLOCK < rows ? (block + 1) * BLOCK : rows;
        for (int start = 0; start < width; start += LANES) {
            float one[LANES] = {0}, two[LANES] = {0};
            for (long row = block * BLOCK; row < end; row++) {
                long at = row * width + start;
                if (gradient)
                    for (int i = 0; i < LANES; i++) {
                        float before = wide(output[at + i]) > 0 ? wide(gradient[at + i]) : 0;
                        one[i] += before;
                        two[i] += before * wide(x[at + i]);
                    }
                else
                    for (int i = 0; i < LANES; i++) {
                        float value = wide(x[at + i]);
                        one[i] += value;
                        two[i] += value * value;
                    }
            }
            memcpy(parts + 2 * block * width + start, one, sizeof one);
            memcpy(parts + (2 * block + 1) * width + start, two, sizeof two);
        }
    }
    memset(first, 0, sizeof(double) * channels);
    memset(second, 0, sizeof(double) * channels);
    for (long block = 0; block < blocks; block++)
        for (int i = 0; i < width; i++) {
            first[i % channels] += parts[2 * block * width + i];
            second[i % channels] += parts[(2 * block + 1) * width + i];
        }
    free(parts);
    return 0;
}

/* output = relu(weight * (x - mean) / sqrt(variance + eps) + bias + shortcut), shortcut may be NULL. statistics[2 C] gets
   the mean and 1 / sqrt(variance + eps) of the batch; the running ones move by `momentum`. Returns 0, or 1: no memory. */
int forward(const bf16 *restrict x, const bf16 *restrict shortcut, const float *weight, const float *bias,
            float *running_mean, float *running_variance, bf16 *restrict output, float *statistics, long pixels,
            int channels, int width, double momentum, double eps, int threads) {
    long rows = pixels * channels / width;
    double first[channels], second[channels];
    float scale[width], shift[width];
    if (sums(NULL, NULL, x, rows, width, channels, first, second, threads)) return 1;
    for (int c = 0; c < channels; c++) {
        double mean = first[c] / pixels, variance = fmax(second[c] / pixels - mean * mean, 0);
        double inverse = 1 / sqrt(variance + eps);
        if (second[c] != second[c]) inverse = second[c]; /* fmax forgets a NaN */
        running_mean[c] += momentum * (mean - running_mean[c]);
        running_variance[c] += momentum * (variance * pixels / (pixels - 1) - running_variance[c]);
        statistics[c] = mean;
        statistics[channels + c] = inverse;
        for (int i = c; i < width; i += channels) {
            scale[i] = weight[c] * inverse;
            shift[i] = bias[c] - weight[c] * inverse * mean;
        }
    }
#pragma omp parallel for num_threads(threads)
    for (long row = 0; row < rows; row++)
        for (int start = 0; start < width; start += LANES) {
            long at = row * width + start;
            const float *a = scale + start, *b = shift + start;
            if (shortcut)
                for (int i = 0; i < LANES; i++) {
                    float value = a[i] * wide(x[at + i]) + b[i] + wide(shortcut[at + i]);
                    output[at + i] = narrow(value < 0 ? 0 : value);
                }
            else
                for (int i = 0; i < LANES; i++) {
                    float value = a[i] * wide(x[at + i]) + b[i];
                    output[at + i] = narrow(value < 0 ? 0 : value);
                }
        }
    return 0;
}

/* The gradients for x, weight, bias and (if not NULL) the shortcut. With w the gradient before the ReLU and
   z = (x - mean) * inverse:  dx = weight * inverse * (w - mean(w) - z * mean(w * z)) = a * w + b * x + d. */
int backward(const bf16 *restrict gradient, const bf16 *restrict output, const bf16 *restrict x, const float *weight,
             const float *statistics, bf16 *restrict dx, bf16 *restrict dshortcut, float *dweight, float *dbias,
             long pixels, int channels, int width, int threads) {
    long rows = pixels * channels / width;
    double first[channels], second[channels];
    float a[width], b[width], d[width];
    if (sums(gradient, output, x, rows, width, channels, first, second, threads)) return 1;
    for (int c = 0; c < channels; c++) {
        double mean = statistics[c], inverse = statistics[channels + c];
        double slope = (second[c] - mean * first[c]) * inverse; /* the sum of w * z */
        dweight[c] = slope;
        dbias[c] = first[c];
        for (int i = c; i < width; i += channels) {
            double along = weight[c] * inverse, across = -along * inverse * slope / pixels;
            a[i] = along;
            b[i] = across;
            d[i] = -along * first[c] / pixels - across * mean;
        }
    }
#pragma omp parallel for num_threads(threads)
    for (long row = 0; row < rows; row++)
        for (int start = 0; start < width; start += LANES) {
            long at = row * width + start;
            const float *p = a + start, *q = b + start, *r = d + start;
            for (int i = 0; i < LANES; i++) {
                float before = wide(output[at + i]) > 0 ? wide(gradient[at + i]) : 0;
                dx[at + i] = narrow(p[i] * before + q[i] * wide(x[at + i]) + r[i]);
            }
            if (dshortcut)
                for (int i = 0; i < LANES; i++)
                    dshortcut[at + i] = wide(output[at + i]) > 0 ? gradient[at + i] : 0;
        }
    return 0;
}
