"""The alpha-stable distribution: density, quantiles, samples, moments and fit.

Two parameterizations are in use. In S0 the distribution is continuous in all
four parameters, and every file here computes in it. S1 is that of textbooks
and of SciPy: with stability a, skewness b and scale g, its location is that of
S0 less g b tan(pi a / 2), which is unbounded near a = 1 (`moments.s1_shift`).

    distribution  `AlphaStable`, the TensorFlow Probability class. It imports
                  TensorFlow Probability; so does `parameters`, its checks
    density       density and tail probabilities: closed forms where they exist,
                  `integration` elsewhere, and gradients
    integration   puts together, for a batch of points, the integral along a
                  spiral or the axis (`contour`) and across the saddle point
                  (`saddle`), both of exp(-psi) for the psi of `exponent`
    quantile      quantiles by Newton's method, the mode by bisection
    sampling      the Chambers-Mallows-Stuck transform, regrouped
    moments       mean, variance, E|X|^p and characteristic function
    fit           parameters from data, by the characteristic function (NumPy)
    elementary    functions that several of these files share
"""
